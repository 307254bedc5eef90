use super::*;

/// A BPF interpreter for the instructions that [`emit`] uses; what the kernel would do with a program.
pub(crate) fn interpret(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        o if (16..64).contains(&o) && o % 4 == 0 => {
            let argument = arguments[(o as usize - 16) / 8];
            if o % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
        }
        o => panic!("a load at {o}"),
    };
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let i = program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { i.jt } else { i.jf });
        match u32::from(i.code) {
            0x20 => a = word(i.k),
            0x54 => a &= i.k,
            0x15 => jump(a == i.k),
            0x35 => jump(a >= i.k),
            0x45 => jump(a & i.k != 0),
            0x05 => at += i.k as usize,
            0x06 => return i.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

/// Interprets the program of `policy` over every number, interesting arguments included, and compares with `decide`.
pub(crate) fn assert_program_is_table(policy: &Policy) {
    let program = policy.assemble().expect("assembles");
    let foreign = [0x4000_0003, NATIVE_ARCH ^ 1, 0];
    for arch in [NATIVE_ARCH].into_iter().chain(foreign) {
        for number in (0..600).chain([X32_BIT - 1, X32_BIT, X32_BIT + 42, u32::MAX]) {
            let row = policy.rows.iter().find(|row| row.calls.iter().any(|call| call.number == number));
            // The constants of the row, their neighbours, and both with garbage in the high half, for each argument.
            let mut values = [const { Vec::new() }; 6];
            for &(field, test) in row.iter().flat_map(|row| &row.rule.clauses).flat_map(|clause| &clause.all) {
                let (Test::Is(k) | Test::AtLeast(k) | Test::AnyOf(k) | Test::Masked(_, k)) = test;
                let (Field::Low(n) | Field::High(n)) = field else { continue };
                let k = u64::from(k);
                values[usize::from(n)].extend([k, k.wrapping_sub(1), k + 1, k | 7 << 32, k | 0x800]);
                if let Test::Masked(mask, _) = test {
                    values[usize::from(n)].push(u64::from(mask));
                }
            }
            for list in &mut values {
                list.extend([0, u64::MAX]);
                list.sort_unstable();
                list.dedup();
            }
            for (&a, &b) in values[0].iter().flat_map(|a| values[1].iter().map(move |b| (a, b))) {
                for (&c, &d) in values[2].iter().flat_map(|c| values[3].iter().map(move |d| (c, d))) {
                    for &e in &values[4] {
                        let arguments = [a, b, c, d, e, 0];
                        let wanted = policy.decide(arch, number, arguments).code();
                        let got = interpret(&program, arch, number, arguments);
                        assert_eq!(got, wanted, "call {number} of {arch:#x} with {arguments:x?}");
                    }
                }
            }
        }
    }
}

fn policy(rows: Vec<Row>) -> Policy {
    Policy { rows, otherwise: Verdict::Allow, foreign: Verdict::Notify }
}

#[test]
fn a_call_in_two_rows_is_an_error() {
    let row = Row { calls: calls![SYS_read], rule: Rule::always(Verdict::Kill), why: "" };
    assert_eq!(policy(vec![row.clone(), row]).assemble(), Err(AssembleError::Twice("read")));
}

#[test]
fn long_jumps_land_where_short_ones_do() {
    // 400 clauses on one call put most of the program further away than a conditional jump reaches.
    let clauses: Vec<Clause> = (0..400)
        .map(|n| Clause { all: vec![(Field::Low(1), Test::Is(n * 3))], verdict: Verdict::Errno(n as i32 % 100 + 1) })
        .collect();
    let rows = vec![
        Row { calls: calls![SYS_ioctl], rule: Rule { clauses, otherwise: Verdict::Allow }, why: "" },
        Row { calls: calls![SYS_close], rule: Rule::always(Verdict::Kill), why: "" },
    ];
    let policy = policy(rows);
    assert!(policy.assemble().unwrap().len() > 512);
    assert_program_is_table(&policy);
}

#[test]
fn an_unfiltered_call_looks_at_nothing_but_arch_and_number() {
    // The kernel's bitmap of constant verdicts depends on it.
    let rows = vec![Row {
        calls: calls![SYS_ioctl],
        rule: Rule::when(Verdict::Errno(1), vec![vec![(Field::Low(1), Test::Is(7))]], Verdict::Allow),
        why: "",
    }];
    let program = policy(rows).assemble().unwrap();
    let mut at = 0;
    loop {
        let i = program[at];
        assert!(i.code != 0x20 || i.k < 8, "an argument was loaded for read()");
        match i.code {
            0x06 => break,
            0x15 => at += 1 + usize::from(if i.k == NATIVE_ARCH { i.jt } else { i.jf }),
            0x35 => at += 1 + usize::from(if libc::SYS_read as u32 >= i.k { i.jt } else { i.jf }),
            0x05 => at += 1 + i.k as usize,
            _ => at += 1,
        }
    }
}
