//! `netjail stop`.

use std::time::Duration;

use super::args::StopArguments;
use super::progress::Progress;
use crate::roles::{client, say};

/// Ends jails; the status is 1 if one of them could not be ended.
pub fn run(arguments: &StopArguments) -> i32 {
    let folder = super::run_folder();
    let grace = Duration::from_secs(arguments.grace.into());
    let mut status = 0;
    for jail in &arguments.jails {
        let _progress = Progress::new(&format!("waiting for {jail} to end"), arguments.quiet);
        if let Err(error) = client::stop(&folder, jail, grace) {
            say(&error.to_string());
            status = 1;
        }
    }
    status
}
