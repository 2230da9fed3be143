//! The few functions of QEMU's plugin interface that are used, and the two symbols that it looks
//! for.
//!
//! Source: QEMU documentation, "QEMU TCG Plugins", and `qemu-plugin.h`, API version 4 (QEMU 10).
//! QEMU loads no plugin of a version that it no longer has.
// UNSAFETY: QEMU's interface is one of C.
#![expect(unsafe_code, reason = "QEMU's interface is one of C")]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::catch_unwind;

use crate::decode::Instruction;
use crate::plugin::{self, Site};

/// An opaque object of QEMU's.
#[repr(C)]
struct Opaque {
    _nothing: [u8; 0],
}

type Id = u64;
type TranslateCallback = extern "C" fn(Id, *mut Opaque);
type ExecuteCallback = extern "C" fn(c_uint, *mut c_void);
type MemoryCallback = extern "C" fn(c_uint, u32, u64, *mut c_void);

/// `QEMU_PLUGIN_CB_NO_REGS`.
const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_MEM_RW`.
const LOADS_AND_STORES: c_int = 3;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: TranslateCallback);
    fn qemu_plugin_tb_n_insns(block: *const Opaque) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Opaque, index: usize) -> *mut Opaque;
    fn qemu_plugin_insn_data(instruction: *const Opaque, into: *mut c_void, most: usize) -> usize;
    fn qemu_plugin_insn_size(instruction: *const Opaque) -> usize;
    fn qemu_plugin_insn_vaddr(instruction: *const Opaque) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Opaque,
        callback: ExecuteCallback,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Opaque,
        callback: ExecuteCallback,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Opaque,
        callback: MemoryCallback,
        flags: c_int,
        which: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_mem_is_store(information: u32) -> bool;
}

/// The version of the interface.
#[unsafe(no_mangle)]
static qemu_plugin_version: c_int = 4;

/// Called by QEMU as it loads the plugin.
///
/// # Safety
///
/// `arguments` holds `count` strings.
#[unsafe(no_mangle)]
unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _information: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let texts = (0..usize::try_from(count).unwrap_or(0)).map(|index| {
        // SAFETY: QEMU passes `count` pointers, and `index` is below that.
        let argument = unsafe { arguments.wrapping_add(index).read() };
        // SAFETY: each points to a string that ends with a zero.
        unsafe { CStr::from_ptr(argument) }.to_string_lossy().into_owned()
    });
    if let Err(error) = plugin::begin(texts) {
        eprintln!("ordering checker: {error}");
        return 1;
    }
    // SAFETY: the callback is a function of this library, which QEMU never unloads.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation) };
    0
}

/// Instruments what lies in the image.
extern "C" fn on_translation(_: Id, block: *mut Opaque) {
    // SAFETY: QEMU's block, valid in this call.
    let count = unsafe { qemu_plugin_tb_n_insns(block) };
    let mut first = None;
    for index in 0..count {
        // SAFETY: `index` is below the count.
        let instruction = unsafe { qemu_plugin_tb_get_insn(block, index) };
        // SAFETY: an instruction of this block.
        let pc = unsafe { qemu_plugin_insn_vaddr(instruction) };
        // SAFETY: the same.
        let bytes = unsafe { qemu_plugin_insn_size(instruction) };
        if bytes != 4 || !plugin::is_in_image(pc) {
            continue;
        }
        // SAFETY: an instruction of this block, of four bytes.
        let decoded = Instruction::decode(u32::from_le(unsafe { word_of(instruction) }));
        first.get_or_insert(pc);
        let site = plugin::site(pc, decoded);
        let data = core::ptr::from_ref(site).cast_mut().cast::<c_void>();
        match decoded {
            Instruction::Other | Instruction::Yield => {}
            Instruction::Memory(_) => {
                // SAFETY: the callback and its site live for ever.
                unsafe {
                    qemu_plugin_register_vcpu_mem_cb(
                        instruction,
                        on_memory,
                        NO_REGISTERS,
                        LOADS_AND_STORES,
                        data,
                    );
                };
            }
            _ => {
                // SAFETY: the same.
                unsafe {
                    qemu_plugin_register_vcpu_insn_exec_cb(
                        instruction,
                        on_instruction,
                        NO_REGISTERS,
                        data,
                    );
                };
            }
        }
    }
    if let Some(first) = first {
        let length = u32::try_from(count).unwrap_or(u32::MAX);
        let site = plugin::site(first, Instruction::Block { length });
        let data = core::ptr::from_ref(site).cast_mut().cast::<c_void>();
        // SAFETY: the same.
        unsafe { qemu_plugin_register_vcpu_tb_exec_cb(block, on_instruction, NO_REGISTERS, data) };
    }
}

/// The bytes of an instruction, as they lie in memory.
///
/// # Safety
///
/// `instruction` belongs to the block that is being translated, and has four bytes.
unsafe fn word_of(instruction: *const Opaque) -> u32 {
    let mut word = 0_u32;
    // SAFETY: as the caller promises; QEMU writes the four bytes of `word` at most.
    unsafe { qemu_plugin_insn_data(instruction, (&raw mut word).cast(), size_of::<u32>()) };
    word
}

extern "C" fn on_instruction(cpu: c_uint, data: *mut c_void) {
    // SAFETY: `on_translation` passed a site, and sites live for ever.
    let site = unsafe { &*data.cast_const().cast::<Site>() };
    guarded(|| plugin::executed(cpu as usize, site));
}

extern "C" fn on_memory(cpu: c_uint, information: u32, address: u64, data: *mut c_void) {
    // SAFETY: as in `on_instruction`.
    let site = unsafe { &*data.cast_const().cast::<Site>() };
    // SAFETY: QEMU's own word about the access.
    let is_store = unsafe { qemu_plugin_mem_is_store(information) };
    guarded(|| plugin::accessed(cpu as usize, site, address, is_store));
}

/// A panic must not unwind into QEMU: the run ends here, and the report says why.
fn guarded(work: impl FnOnce() + std::panic::UnwindSafe) {
    if catch_unwind(work).is_err() {
        plugin::fail("the ordering checker itself panicked");
        std::process::abort();
    }
}
