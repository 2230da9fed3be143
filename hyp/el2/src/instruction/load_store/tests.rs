use super::*;

fn base(base: u8, offset: i64, increment: i64) -> Addressing {
    Addressing { increment, ..Addressing::at(base, offset) }
}

fn load(register: u8, extension: Extension) -> Access {
    Access { extension, ..one(Operation::Load, register, 0, base(0, 0, 0)) }
}

fn store(register: u8) -> Access {
    one(Operation::Store, register, 0, base(0, 0, 0))
}

fn pair(of: Access, second: u8) -> Access {
    Access { is_pair: true, registers: [of.registers[0], second], ..of }
}

/// Encodings as an assembler gives them.
#[test]
fn every_form_that_is_emulated_is_decoded_as_itself() {
    let (zero, sign) = (Extension::Zero, Extension::Sign64);
    let index = Addressing { index: 3, option: 6, shift: 2, ..base(2, 0, 0) };
    let exclusive = |kind| Access { kind, ..load(1, zero) };
    let succeeds = Access { status: 4, ..exclusive(Operation::StoreExclusive) };
    for (instruction, access, bytes, addressing) in [
        (0xf940_0441, load(1, zero), 8, base(2, 8, 0)), // ldr x1, [x2, #8]
        (0x3900_0fe1, store(1), 1, base(31, 3, 0)),     // strb w1, [sp, #3]
        (0x38c0_1441, load(1, Extension::Sign32), 1, base(2, 0, 1)), // ldrsb w1, [x2], #1
        (0x789f_ec41, load(1, sign), 2, base(2, -2, -2)), // ldrsh x1, [x2, #-2]!
        (0xb880_4441, load(1, sign), 4, base(2, 0, 4)), // ldrsw x1, [x2], #4
        (0xf85f_8041, load(1, zero), 8, base(2, -8, 0)), // ldur x1, [x2, #-8]
        (0xf840_0841, load(1, zero), 8, base(2, 0, 0)), // ldtr x1, [x2]
        (0xc8df_fc41, load(1, zero), 8, base(2, 0, 0)), // ldar x1, [x2]
        (0x089f_fc41, store(1), 1, base(2, 0, 0)),      // stlrb w1, [x2]
        (0xf8bf_c041, load(1, zero), 8, base(2, 0, 0)), // ldapr x1, [x2]
        (0x9900_4041, store(1), 4, base(2, 4, 0)),      // stlur w1, [x2, #4]
        (0x5800_0041, load(1, zero), 8, base(Addressing::PC, 8, 0)), // ldr x1, .+8
        (0xb863_d841, load(1, zero), 4, index),         // ldr w1, [x2, w3, sxtw #2]
        (0xa8c1_0c41, pair(load(1, zero), 3), 8, base(2, 0, 16)), // ldp x1, x3, [x2], #16
        (0x29bf_0c41, pair(store(1), 3), 4, base(2, -8, -8)), // stp w1, w3, [x2, #-8]!
        (0xa840_8c41, pair(load(1, zero), 3), 8, base(2, 8, 0)), // ldnp x1, x3, [x2, #8]
        (0x6940_8c41, pair(load(1, sign), 3), 4, base(2, 4, 0)), // ldpsw x1, x3, [x2, #4]
        (0xc85f_7c41, exclusive(Operation::LoadExclusive), 8, base(2, 0, 0)), // ldxr x1, [x2]
        (0xc824_8c41, pair(succeeds, 3), 8, base(2, 0, 0)), // stlxp w4, x1, x3, [x2]
    ] {
        let is_unprivileged = matches!(instruction, 0xf840_0841 | 0xb800_0841);
        let expected = Access { bytes, addressing, is_unprivileged, ..access };
        assert_eq!(decode(instruction), Some(expected), "{instruction:#x}");
    }
}

#[test]
fn stores_are_told_from_loads() {
    for (instruction, is_write) in [
        (0xf940_0041_u32, false), // ldr x1, [x2]
        (0xa840_8c41, false),     // ldnp x1, x3, [x2, #8]
        (0xc85f_7c41, false),     // ldxr x1, [x2]
        (0xf900_0041, true),      // str x1, [x2]
        (0xa900_0c41, true),      // stp x1, x3, [x2]
        (0xc804_7c43, true),      // stxr w4, x3, [x2]
        (0xc89f_fc41, true),      // stlr x1, [x2]
    ] {
        assert_eq!(
            decode(instruction).map(|access| access.is_write()),
            Some(is_write),
            "{instruction:#x}"
        );
    }
}

#[test]
fn what_is_stepped_is_no_such_access() {
    for instruction in [
        0x3dc0_0041_u32, // ldr q1, [x2]
        0xad40_0c41,     // ldp q1, q3, [x2]
        0x4c40_7041,     // ld1 {v1.16b}, [x2]
        0xf820_0041,     // ldadd x0, x1, [x2]
        0xf820_8041,     // swp x0, x1, [x2]
        0xc8a0_7c41,     // cas x0, x1, [x2]
        0x4820_7c42,     // casp x0, x1, x2, x3, [x2]
        0xd50b_7422,     // dc zva, x2
        0xf980_0040,     // prfm pldl1keep, [x2]
        0xa9c1_0c22,     // ldp x2, x3, [x1, #16]! is fine, but:
        0xf840_8442,     // ldr x2, [x2], #8
        0x1400_0000,     // b .
    ] {
        let is_decoded = decode(instruction).is_some();
        assert_eq!(is_decoded, instruction == 0xa9c1_0c22, "{instruction:#x}");
    }
}

#[test]
fn any_word_has_an_answer_and_stays_in_bounds() {
    let mut word = 1_u32;
    for _ in 0..2_000_000 {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if let Some(access) = decode(word & !(1 << 25) | 1 << 27) {
            assert!(matches!(access.bytes, 1 | 2 | 4 | 8) && access.length() <= 16);
        }
    }
}

#[test]
fn addresses_and_values_are_the_architectures() {
    let addressing = Addressing { index: 3, option: 6, shift: 2, ..base(31, 0, 0) };
    let index = Access { bytes: 4, addressing, ..store(0) };
    assert_eq!(index.address(|_| 0x1000, |_| 0xffff_ffff, 0), 0xffc);
    let literal = Access { addressing: base(Addressing::PC, 8, 0), ..index };
    assert_eq!(literal.address(|_| 0x1000, |_| 1, 0x2000), 0x2008);
    assert_eq!(Extension::Sign32.apply(0x80, 1), 0xffff_ff80);
    assert_eq!(Extension::Sign64.apply(0x8000_0000, 4), 0xffff_ffff_8000_0000);
    assert_eq!(Extension::Zero.apply(u64::MAX, 8), u64::MAX);
}
