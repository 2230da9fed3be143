//! The kernel's code and data. It runs with MMU and caches off, as it was entered.

mod registers;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

/// By this, `oche pack` and Oche recognise U-Boot.
#[used]
static BANNER: [u8; 42] = *b"U-Boot 2025.01-oche-test (of Oche's tests)";

/// UART 0's status, of which bit 1 is set when a byte can be sent, and the byte. Source: m1n1
/// `src/uart_regs.h`.
const UART_STATUS: *const u32 = 0x2_3520_0010 as *const u32;
const UART_TRANSMIT: *mut u32 = 0x2_3520_0020 as *mut u32;
/// The word of the stub's table in which CPU 1 waits for its entry. Source:
/// `tests/guests/m1n1-stub`.
const RELEASE_WORD: *mut u64 = 0x8_0400_1048 as *mut u64;
/// Loads of the word that CPU 1 stores, until it counts as absent.
const PATIENCE: u32 = 1 << 24;

/// What the entry assembly stores: x0 to x4, SP, `DAIF`, `SPSel`.
const FIRST: usize = 8;
const NAMES: [&str; FIRST] = ["x0", "x1", "x2", "x3", "x4", "SP", "DAIF", "SPSel"];
/// What CPU 1 stores: its exception level.
static LEVEL_OF_OTHER: AtomicU64 = AtomicU64::new(0);

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the port's status, read without a side effect.
            while unsafe { UART_STATUS.read_volatile() } & 2 == 0 {}
            // SAFETY: the port's register for a byte to send.
            unsafe { UART_TRANSMIT.write_volatile(u32::from(byte)) };
        }
        Ok(())
    }
}

fn print(name: &str, value: u64) {
    // Writing cannot fail.
    let _ = writeln!(Uart, "native: {name} {value:#x}");
}

#[unsafe(no_mangle)]
extern "C" fn native_main(first: &[u64; FIRST], start: u64, constants_end: u64) -> ! {
    print("CurrentEL", current_level());
    for (name, value) in NAMES.iter().zip(first) {
        print(name, *value);
    }
    registers::for_each(print);
    print("place", start);
    print("image", digest(start, constants_end - start));
    let fdt = first[0];
    // SAFETY: the booting contract puts the address of an FDT into x0; its size is the second word.
    let size = u64::from(u32::from_be(unsafe { ((fdt + 4) as *const u32).read_volatile() }));
    print("fdt-bytes", size);
    print("fdt", digest(fdt, size));
    print("level-of-cpu-1", start_other());
    let _ = writeln!(Uart, "native: end");
    loop {
        // SAFETY: waits.
        unsafe { asm!("wfe", options(nomem, nostack)) };
    }
}

/// `CurrentEL`.
fn current_level() -> u64 {
    let level: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, CurrentEL", out(reg) level, options(nomem, nostack)) };
    level >> 2
}

/// FNV-1a of the bytes.
fn digest(start: u64, bytes: u64) -> u64 {
    (0..bytes).fold(0xcbf2_9ce4_8422_2325, |sum, at| {
        // SAFETY: memory that the caller names, with nothing that writes it meanwhile.
        let byte = unsafe { ((start + at) as *const u8).read_volatile() };
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Starts CPU 1, which waits in firmware's table, and returns its exception level; 0 if it does not
/// come.
fn start_other() -> u64 {
    let entry: u64;
    // SAFETY: takes an address.
    unsafe {
        asm!("adrp {0}, native_other", "add {0}, {0}, :lo12:native_other", out(reg) entry,
            options(nomem, nostack))
    };
    // SAFETY: the stub's word, for this use.
    unsafe { RELEASE_WORD.write_volatile(entry) };
    // SAFETY: a barrier and a hint.
    unsafe { asm!("dsb sy", "sev", options(nostack)) };
    for _ in 0..PATIENCE {
        let level = LEVEL_OF_OTHER.load(Ordering::Relaxed);
        if level != 0 {
            return level >> 2;
        }
    }
    0
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "native: FAILED {}", info.message());
    loop {
        core::hint::spin_loop();
    }
}

global_asm!(
    include_str!("../../common/src/bare/image_header.s"),
    r#"
1:  adrp    x9, first
    add     x9, x9, :lo12:first
    stp     x0, x1, [x9]
    stp     x2, x3, [x9, #16]
    mov     x10, sp
    stp     x4, x10, [x9, #32]
    mrs     x10, daif
    mrs     x11, spsel
    stp     x10, x11, [x9, #48]
    mov     x19, x9
    adrp    x21, _start
    adrp    x9, __rela_start
    add     x9, x9, :lo12:__rela_start
    adrp    x10, __rela_end
    add     x10, x10, :lo12:__rela_end
2:  cmp     x9, x10
    b.hs    3f
    ldp     x11, x12, [x9]
    ldr     x13, [x9, #16]
    add     x9, x9, #24
    cmp     w12, #1027                  // R_AARCH64_RELATIVE
    b.ne    2b
    add     x13, x13, x21
    str     x13, [x21, x11]
    b       2b
3:  msr     spsel, #1
    adrp    x9, stack_end
    add     x9, x9, :lo12:stack_end
    mov     sp, x9
    mov     x0, x19
    mov     x1, x21
    adrp    x2, __rela_start
    add     x2, x2, :lo12:__rela_start
    bl      native_main
    b       .

    // CPU 1, from firmware's table, at the end of which it returns.
native_other:
    mrs     x9, CurrentEL
    adrp    x10, {level}
    add     x10, x10, :lo12:{level}
    str     x9, [x10]
    dsb     sy
    ret

    .section .bss.state, "aw", %nobits
    .balign 16
first:
    .space  64
    .space  16384
stack_end:
"#,
    level = sym LEVEL_OF_OTHER,
);
