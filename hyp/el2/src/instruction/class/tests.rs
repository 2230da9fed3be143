use super::*;

#[test]
fn only_what_may_touch_memory_is_stepped() {
    for instruction in [
        0x3d80_0001_u32, // str q1, [x0]
        0xf821_0002,     // ldadd x1, x2, [x0]
        0xd50b_7420,     // dc zva, x0
        0xd508_7620,     // dc ivac, x0
        0x4c00_2000,     // st1 {v0-v3}, [x0]
        0xa400_4000,     // ld1b {z0.b}, p0/z, [x0, x0]
        0x1901_0440,     // cpyfp and others like it
    ] {
        assert!(may_touch_memory(instruction), "{instruction:#x}");
    }
    for instruction in [
        0xd400_0001_u32, // svc #0
        0xd400_0002,     // hvc #0
        0xd420_0000,     // brk #0
        0xd503_207f,     // wfi
        0xd503_42df,     // msr daifset, #2
        0xd53b_4220,     // mrs x0, daif
        0xd51b_4220,     // msr daif, x0
        0xd510_025f,     // msr mdscr_el1, xzr
        0xd510_1081,     // msr oslar_el1, x1
        0xd69f_03e0,     // eret
        0xd503_3fdf,     // isb
        0x1400_0000,     // b .
        0x5400_0000,     // b.eq .
        0x3600_0000,     // tbz w0, #0, .
    ] {
        assert!(!may_touch_memory(instruction), "{instruction:#x}");
    }
    assert!(
        is_wait(0xd503_205f)
            && is_wait(0xd503_207f)
            && is_wait(0xd503_1003)
            && !is_wait(0xd503_201f)
    );
}

#[test]
fn load_exclusives_are_known_in_every_instruction_set() {
    use InstructionSet::{A32, A64, T32};
    for (instruction, set, is_exclusive) in [
        (0xc85f_7c41_u32, A64, true), // ldxr x1, [x2]
        (0x085f_fc41, A64, true),     // ldaxrb w1, [x2]
        (0x887f_0c41, A64, true),     // ldxp w1, w3, [x2]
        (0xc804_7c43, A64, false),    // stxr w4, x3, [x2]
        (0xc8df_fc41, A64, false),    // ldar x1, [x2]
        (0x4820_7c42, A64, false),    // casp x0, x1, x2, x3, [x2]
        (0xf940_0041, A64, false),    // ldr x1, [x2]
        (0xe199_cf9f, A32, true),     // ldrex r12, [r9]
        (0xe1d9_cf9f, A32, true),     // ldrexb r12, [r9]
        (0xe1b9_4f9f, A32, true),     // ldrexd r4, r5, [r9]
        (0xe199_ce9f, A32, true),     // ldaex r12, [r9]
        (0xe199_cc9f, A32, false),    // lda r12, [r9]
        (0xe189_af9c, A32, false),    // strex r10, r12, [r9]
        (0xe599_c000, A32, false),    // ldr r12, [r9]
        (0xe859_cf00, T32, true),     // ldrex r12, [r9]
        (0xe8d9_cf4f, T32, true),     // ldrexb r12, [r9]
        (0xe8d9_cfef, T32, true),     // ldaex r12, [r9]
        (0xe8d9_cfaf, T32, false),    // lda r12, [r9]
        (0xe849_ca00, T32, false),    // strex r10, r12, [r9]
        (0xf8d9_c000, T32, false),    // ldr.w r12, [r9]
    ] {
        assert_eq!(
            is_load_exclusive(instruction, set),
            is_exclusive,
            "{instruction:#x} in {set:?}"
        );
    }
}

#[test]
fn only_what_computes_or_branches_is_plain() {
    for instruction in [
        0x8b0a_01ae_u32, // add x14, x13, x10
        0x1100_05ad,     // add w13, w13, #1
        0xca0a_01ae,     // eor x14, x13, x10
        0xd280_0020,     // mov x0, #1
        0x35ff_ffaf,     // cbnz w15, .-12
        0x54ff_ffa1,     // b.ne .-12
        0x3700_0040,     // tbnz w0, #0, .+8
        0x1400_0002,     // b .+8
        0xd503_3bbf,     // dmb ish
    ] {
        assert!(is_plain(instruction), "{instruction:#x}");
    }
    for instruction in [
        0xd503_207f_u32, // wfi
        0xd503_305f,     // clrex
        0xd53b_4220,     // mrs x0, daif
        0xd400_0001,     // svc #0
        0xd65f_03c0,     // ret
        0x9400_0002,     // bl .+8
        0xf940_0041,     // ldr x1, [x2]
        0x3dc0_0041,     // ldr q1, [x2]
        0x4ea1_8400,     // add v0.4s, v0.4s, v1.4s
        0x0000_0000,     // udf
    ] {
        assert!(!is_plain(instruction), "{instruction:#x}");
    }
}
