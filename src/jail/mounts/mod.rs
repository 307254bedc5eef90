//! The files that a jail sees: a new root, built from nothing, into which the caller's folders are bound.
//!
//! **Built, not patched.** A mask over one file of a host folder comes off when somebody outside renames another file over it,
//! and a mount that is merely covered still shows its server in mountinfo. So [`build`] makes a root of its own on a tmpfs,
//! binds the host's top-level folders into it, puts views of its own where the host's folders would name or reach the host
//! (/etc, /run, /dev, /sys, /proc, /var/log, /tmp), and pivots into it; the old root is detached.
//!
//! **Order.** Scratch tmpfs -> root and the caller's folders (`root`, `folders`) -> own views (`etc`, `system`, `proc`, `tmp`)
//! -> folders that lie below such a view (the working folder in /tmp) -> masks over keys (`masks`, last, so that nothing
//! uncovers them) -> read-only marks -> pivot. While it works, the working folder is the scratch tmpfs, so that a relative path
//! is the jail's and an absolute one is the host's.
//!
//! **Who calls it.** Pid 1 of the jail, no other thread of which may touch a path meanwhile, in fresh user, mount, pid, network and cgroup namespaces, with all
//! capabilities of that user namespace. The command later enters a second user and mount namespace, which locks every mount
//! made here. A failure leaves the caller's namespace half built: it has to exit.
//!
//! **Propagation** is closed first: nothing mounted outside later appears inside, and the other way round.

mod calls;
mod error;
mod etc;
mod folders;
mod masks;
mod plan;
mod proc;
pub mod reopen;
mod root;
mod system;
mod table;
#[cfg(test)]
mod tests;
mod tmp;
mod view;

pub use error::{MountError, Stage};
pub use plan::{Caller, HomeView, Note, Notes, Plan, ProcView, TmpView};
pub use table::{Mount, Table};

use view::View;

/// Whether a path of the host lies in a folder that jails have a view of their own of: what a jail does there stays in it.
pub fn is_own_view(path: &std::path::Path) -> bool {
    view::VIEWS.iter().any(|view| path.starts_with(view))
}

/// Builds the view and makes it this process's root; ends in the plan's working folder.
///
/// # Errors
/// [`MountError`] names the stage, the path and the remedy. The caller must exit then.
pub fn build(plan: &Plan) -> Result<Notes, MountError> {
    let mut view = View::begin(plan)?;
    root::build(&mut view)?;
    let folders = folders::Folders::new(&view)?;
    folders.bind_outside_views(&mut view)?;
    view.close_devices()?;
    etc::build(&mut view)?;
    system::dev(&mut view)?;
    system::sys(&mut view)?;
    system::run(&mut view)?;
    system::var(&mut view)?;
    proc::build(&mut view)?;
    tmp::build(&mut view)?;
    folders.bind_inside_views(&mut view)?;
    masks::build(&mut view)?;
    view.finish()
}
