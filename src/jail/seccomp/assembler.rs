//! From rules to classic BPF (seccomp(2), Documentation/userspace-api/seccomp_filter.rst).
//!
//! A [`Policy`] is a list of [`Row`]s, each a set of system calls with one [`Rule`]; a rule is a list of conjunctions over
//! the arguments, the first that holds decides. It is turned into a decision tree and the tree into instructions, which
//! keeps jumps trivially right: a branch's `then` part follows it, its `otherwise` part follows that, and a distance that
//! does not fit the eight bits of a conditional jump goes through an unconditional one.
//!
//! The system call number is found by a balanced search over ranges. Calls that are allowed whatever their arguments
//! never run the program at all: since Linux 5.11 the kernel finds them when the filter is installed and keeps a bitmap,
//! which works for programs that, like these, look only at `arch` and `nr` on the way to such a verdict. So no
//! order of hot calls is kept by hand.
//!
//! The kernel hands arguments over as 64 bits. What it later reads as an `int` (a family, a flag word, an ioctl request) is
//! compared in its low half only, or a caller could slip by with garbage in the high half.

use libc::sock_filter;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel goes on.
    Allow,
    /// The call fails with this errno and nothing else happens.
    Errno(i32),
    /// The listener of the filter answers; without a listener the call fails with ENOSYS.
    Notify,
    /// The whole process dies by SIGSYS.
    Kill,
}

impl Verdict {
    fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA),
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// A 32-bit word of `struct seccomp_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The number of the call.
    Nr,
    /// The architecture of the entry point, an `AUDIT_ARCH_*`.
    Arch,
    /// The low half of argument 0 to 5.
    Low(u8),
    /// The high half of argument 0 to 5.
    High(u8),
}

impl Field {
    /// The byte offset in `struct seccomp_data`, on a little-endian machine (both that are supported are).
    fn offset(self) -> u32 {
        match self {
            Self::Nr => 0,
            Self::Arch => 4,
            Self::Low(argument) => 16 + 8 * u32::from(argument),
            Self::High(argument) => 20 + 8 * u32::from(argument),
        }
    }
}

/// A comparison of a [`Field`] with constants, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// It is this value.
    Is(u32),
    /// It is this value or a larger one.
    AtLeast(u32),
    /// At least one of these bits is set.
    AnyOf(u32),
    /// Under the mask (first) it is the value (second).
    Masked(u32, u32),
}

/// What the kernel reads of an argument as an `int` is this value.
pub fn is(argument: u8, value: u32) -> (Field, Test) {
    (Field::Low(argument), Test::Is(value))
}

/// The same for each of the values: conjunctions of which one is to hold.
pub fn one_of(argument: u8, values: impl IntoIterator<Item = u32>) -> Vec<Vec<(Field, Test)>> {
    values.into_iter().map(|value| vec![is(argument, value)]).collect()
}

/// A conjunction and what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// All of these must hold.
    pub all: Vec<(Field, Test)>,
    /// Then this is the verdict.
    pub verdict: Verdict,
}

/// What is decided for one call: the first clause that holds, else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// In order.
    pub clauses: Vec<Clause>,
    /// When no clause holds.
    pub otherwise: Verdict,
}

impl Rule {
    /// The same verdict whatever the arguments.
    pub fn always(verdict: Verdict) -> Self {
        Self { clauses: Vec::new(), otherwise: verdict }
    }

    /// `verdict` where one of the conjunctions holds, `otherwise` elsewhere.
    pub fn when(verdict: Verdict, any: Vec<Vec<(Field, Test)>>, otherwise: Verdict) -> Self {
        Self { clauses: any.into_iter().map(|all| Clause { all, verdict }).collect(), otherwise }
    }
}

/// A system call by name and by its number on this architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// As in its manual page.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
}

/// Builds a list of [`Call`]s from the names of libc's constants: `calls![SYS_read, SYS_write]`.
macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::jail::seccomp::assembler::Call {
            // The constant is SYS_ and the name.
            name: &stringify!($name)[4..],
            number: libc::$name as u32,
        }),*]
    };
}
pub(crate) use calls;

/// A row of a table: calls, their common rule, and the reason.
#[derive(Clone, Debug)]
pub struct Row {
    /// The calls.
    pub calls: Vec<Call>,
    /// What is decided.
    pub rule: Rule,
    /// Why, for the person who reads the table.
    pub why: &'static str,
}

/// A whole filter as data.
#[derive(Clone, Debug)]
pub struct Policy {
    /// No call may occur in two rows.
    pub rows: Vec<Row>,
    /// For calls without a row.
    pub otherwise: Verdict,
    /// For every other architecture's entry point (int 0x80, x32, compat ARM), whatever the call.
    pub foreign: Verdict,
}

/// Why a policy can not be assembled. All of these are mistakes in a table, not in anybody's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// Two rows decide the same call.
    #[error("the system call {0} stands in two rows of a seccomp table: keep one of them")]
    Twice(&'static str),
    /// BPF_MAXINSNS.
    #[error("a seccomp table needs {0} instructions, and the kernel takes 4096: merge rows")]
    TooLong(usize),
}

/// `AUDIT_ARCH_X86_64` (EM_X86_64 with the 64-bit and little-endian marks).
#[cfg(target_arch = "x86_64")]
pub const NATIVE_ARCH: u32 = 0xC000_003E;
/// `AUDIT_ARCH_AARCH64`.
#[cfg(target_arch = "aarch64")]
pub const NATIVE_ARCH: u32 = 0xC000_00B7;

/// Numbers from here on are x32's on x86-64 (`__X32_SYSCALL_BIT`), and no call at all elsewhere.
pub const X32_BIT: u32 = 0x4000_0000;

enum Tree<'a> {
    Return(Verdict),
    Rule(&'a Rule),
    Branch { field: Field, test: Test, then: Box<Tree<'a>>, otherwise: Box<Tree<'a>> },
}

impl Policy {
    /// What this policy says of a call; the definition that the assembled program is tested against.
    pub fn decide(&self, arch: u32, number: u32, arguments: [u64; 6]) -> Verdict {
        if arch != NATIVE_ARCH || number >= X32_BIT {
            return self.foreign;
        }
        let Some(row) = self.rows.iter().find(|row| row.calls.iter().any(|call| call.number == number)) else {
            return self.otherwise;
        };
        let value = |field| match field {
            Field::Nr => number,
            Field::Arch => arch,
            Field::Low(n) => arguments[usize::from(n)] as u32,
            Field::High(n) => (arguments[usize::from(n)] >> 32) as u32,
        };
        let holds = |(field, test): &(Field, Test)| match *test {
            Test::Is(k) => value(*field) == k,
            Test::AtLeast(k) => value(*field) >= k,
            Test::AnyOf(bits) => value(*field) & bits != 0,
            Test::Masked(mask, k) => value(*field) & mask == k,
        };
        let clause = row.rule.clauses.iter().find(|clause| clause.all.iter().all(holds));
        clause.map_or(row.rule.otherwise, |clause| clause.verdict)
    }

    /// The program for the kernel.
    pub fn assemble(&self) -> Result<Vec<sock_filter>, AssembleError> {
        let rest = Rule::always(self.otherwise);
        let segments = self.segments(&rest)?;
        let dispatch = dispatch(&segments);
        let number = Tree::Branch {
            field: Field::Nr,
            test: Test::AtLeast(X32_BIT),
            then: Box::new(Tree::Return(self.foreign)),
            otherwise: Box::new(dispatch),
        };
        let tree = Tree::Branch {
            field: Field::Arch,
            test: Test::Is(NATIVE_ARCH),
            then: Box::new(number),
            otherwise: Box::new(Tree::Return(self.foreign)),
        };
        let program = emit(&tree, None);
        if program.len() > libc::BPF_MAXINSNS as usize {
            Err(AssembleError::TooLong(program.len()))
        } else {
            Ok(program)
        }
    }

    /// The number line cut into pieces with one rule each, in order; neighbours differ.
    fn segments<'a>(&'a self, rest: &'a Rule) -> Result<Vec<(u32, &'a Rule)>, AssembleError> {
        let mut calls: Vec<(&Call, &Rule)> =
            self.rows.iter().flat_map(|row| row.calls.iter().map(move |call| (call, &row.rule))).collect();
        calls.sort_by_key(|(call, _)| call.number);
        if let Some(pair) = calls.windows(2).find(|pair| pair[0].0.number == pair[1].0.number) {
            return Err(AssembleError::Twice(pair[0].0.name));
        }
        let mut segments = vec![(0, rest)];
        let mut add = |from: u32, rule: &'a Rule| {
            if segments.last().is_some_and(|(start, _)| *start == from) {
                segments.pop();
            }
            if segments.last().is_none_or(|(_, before)| *before != rule) {
                segments.push((from, rule));
            }
        };
        for (call, rule) in calls {
            add(call.number, rule);
            add(call.number + 1, rest);
        }
        Ok(segments)
    }
}

fn dispatch<'a>(segments: &[(u32, &'a Rule)]) -> Tree<'a> {
    match segments {
        [] => Tree::Return(Verdict::Kill),
        [(_, rule)] => Tree::Rule(rule),
        _ => {
            let (lower, upper) = segments.split_at(segments.len() / 2);
            Tree::Branch {
                field: Field::Nr,
                test: Test::AtLeast(upper[0].0),
                then: Box::new(dispatch(upper)),
                otherwise: Box::new(dispatch(lower)),
            }
        }
    }
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn ret(verdict: Verdict) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, verdict.code())
}

/// What the accumulator holds: a field, as it is or under a mask. None where it depends on the way that led here.
type Loaded = Option<(Field, Option<u32>)>;

/// Gets `field` into the accumulator and ready for `test`, unless it is; the jump with its constant.
fn load(field: Field, test: Test, loaded: &mut Loaded, out: &mut Vec<sock_filter>) -> (u32, u32) {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JSET, BPF_K, BPF_LD, BPF_W};
    let (jump, k, mask) = match test {
        Test::Is(k) => (BPF_JEQ, k, None),
        Test::AtLeast(k) => (BPF_JGE, k, None),
        Test::AnyOf(bits) => (BPF_JSET, bits, None),
        Test::Masked(mask, k) => (BPF_JEQ, k, Some(mask)),
    };
    if *loaded != Some((field, mask)) {
        out.push(instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, field.offset()));
        out.extend(mask.map(|mask| instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, mask)));
        *loaded = Some((field, mask));
    }
    (jump, k)
}

/// The clauses one behind the other: where one of its tests fails, a clause jumps to its own end.
fn emit_rule(rule: &Rule, out: &mut Vec<sock_filter>) {
    let mut loaded = None;
    for clause in &rule.clauses {
        let mut tests = Vec::with_capacity(clause.all.len());
        for &(field, test) in &clause.all {
            let (jump, k) = load(field, test, &mut loaded, out);
            tests.push(out.len());
            out.push(instruction(libc::BPF_JMP | jump | libc::BPF_K, 0, 0, k));
        }
        out.push(ret(clause.verdict));
        for &at in &tests {
            // A clause has a handful of tests: the distance to its end fits eight bits.
            out[at].jf = (out.len() - at - 1) as u8;
        }
        if tests.len() != 1 {
            loaded = None; // whichever of them failed
        }
    }
    out.push(ret(rule.otherwise));
}

fn emit(tree: &Tree<'_>, mut loaded: Loaded) -> Vec<sock_filter> {
    let mut out = Vec::new();
    match tree {
        Tree::Return(verdict) => out.push(ret(*verdict)),
        Tree::Rule(rule) => emit_rule(rule, &mut out),
        Tree::Branch { field, test, then, otherwise } => {
            let (jump, k) = load(*field, *test, &mut loaded, &mut out);
            let (then, otherwise) = (emit(then, loaded), emit(otherwise, loaded));
            match u8::try_from(then.len()) {
                Ok(distance) => out.push(instruction(libc::BPF_JMP | jump | libc::BPF_K, 0, distance, k)),
                Err(_) => {
                    out.push(instruction(libc::BPF_JMP | jump | libc::BPF_K, 1, 0, k));
                    out.push(instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, then.len() as u32));
                }
            }
            out.extend(then);
            out.extend(otherwise);
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests;
