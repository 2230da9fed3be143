//! The few functions of QEMU's plugin interface that are used, and the two symbols that it looks
//! for.
//!
//! Source: QEMU documentation, "QEMU TCG Plugins", and `qemu-plugin.h`, API version 4 (QEMU 10).
//! QEMU loads no plugin of a version that it no longer has.
// UNSAFETY: QEMU's interface is one of C.
#![expect(unsafe_code, reason = "QEMU's interface is one of C")]

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::counters::{Counters, Settings};

/// An opaque object of QEMU's.
#[repr(C)]
struct Opaque {
    _nothing: [u8; 0],
}

type Id = u64;
type TranslateCallback = extern "C" fn(Id, *mut Opaque);

/// `QEMU_PLUGIN_CB_NO_REGS`.
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: TranslateCallback);
    fn qemu_plugin_tb_n_insns(block: *const Opaque) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Opaque, index: usize) -> *mut Opaque;
    fn qemu_plugin_insn_vaddr(instruction: *const Opaque) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Opaque,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
}

/// The version of the interface.
#[unsafe(no_mangle)]
static qemu_plugin_version: c_int = 4;

static COUNTERS: OnceLock<Counters> = OnceLock::new();

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
    if let Err(error) = begin(texts) {
        eprintln!("profiler: {error}");
        return 1;
    }
    // SAFETY: the callback is a function of this library, which QEMU never unloads.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation) };
    0
}

fn begin(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let counters = Counters::create(&Settings::parse(arguments)?)?;
    COUNTERS.set(counters).map_err(|_| "the plugin is loaded twice".to_owned())
}

/// Has QEMU count each instruction that lies in the image.
extern "C" fn on_translation(_: Id, block: *mut Opaque) {
    let Some(counters) = COUNTERS.get() else { return };
    // SAFETY: QEMU's block, valid in this call.
    let count = unsafe { qemu_plugin_tb_n_insns(block) };
    for index in 0..count {
        // SAFETY: `index` is below the count.
        let instruction = unsafe { qemu_plugin_tb_get_insn(block, index) };
        // SAFETY: an instruction of this block.
        let pc = unsafe { qemu_plugin_insn_vaddr(instruction) };
        let Some(counter) = counters.at(pc) else { continue };
        // SAFETY: the same; the counters stay mapped for as long as QEMU runs.
        unsafe { count_executions(instruction, counter) };
    }
}

/// Has QEMU call back whenever an instruction is executed: inline it adds to counters of its own
/// only.
///
/// # Safety
///
/// `instruction` belongs to the block that is being translated, and the counter is there for as
/// long as QEMU runs.
unsafe fn count_executions(instruction: *mut Opaque, counter: *mut u64) {
    let data = counter.cast();
    // SAFETY: as the caller promises.
    unsafe { qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_executed, NO_REGISTERS, data) };
}

extern "C" fn on_executed(_: c_uint, counter: *mut c_void) {
    let counter = counter.cast::<u64>();
    // SAFETY: a counter, as `count_executions` promises.
    let count = unsafe { counter.read() };
    // SAFETY: the same. One thread executes all CPUs.
    unsafe { counter.write(count.wrapping_add(1)) };
}
