//! The functions of the emulator that the plugin calls (QEMU's `qemu-plugin.h`, version 4 of the interface), made safe.

use std::ffi::{c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The interface that this is written for; the emulator refuses a plugin whose version it does not have.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the emulator looks for this name")]
static qemu_plugin_version: c_int = 4;

/// `QEMU_PLUGIN_CB_NO_REGS`, `QEMU_PLUGIN_MEM_W`.
const NO_REGISTERS: c_int = 0;
const WRITES: c_int = 2;

type OnTranslation = extern "C" fn(id: u64, block: *mut c_void);
type OnExecution = extern "C" fn(core: c_uint, data: *mut c_void);
type OnMemory = extern "C" fn(core: c_uint, access: u32, address: u64, data: *mut c_void);

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, call: OnTranslation);
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const c_void, index: usize) -> *mut c_void;
    fn qemu_plugin_insn_data(instruction: *const c_void, to: *mut u8, length: usize) -> usize;
    fn qemu_plugin_insn_vaddr(instruction: *const c_void) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut c_void,
        call: OnExecution,
        registers: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut c_void,
        call: OnMemory,
        registers: c_int,
        kinds: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_get_hwaddr(access: u32, address: u64) -> *mut c_void;
    fn qemu_plugin_hwaddr_is_io(place: *const c_void) -> bool;
    fn qemu_plugin_hwaddr_phys_addr(place: *const c_void) -> u64;
}

/// A block of instructions that was just translated.
pub struct Translated<'a>(*mut c_void, PhantomData<&'a ()>);

impl<'a> Translated<'a> {
    /// Its instructions.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction<'a>> {
        // SAFETY: the block lives for 'a.
        let count = unsafe { qemu_plugin_tb_n_insns(self.0) };
        // SAFETY: as above, and it has an instruction of each of these numbers.
        (0..count).map(|index| Instruction(unsafe { qemu_plugin_tb_get_insn(self.0, index) }, PhantomData))
    }
}

/// Bytes of the longest instruction, and one.
const LONGEST: usize = 16;

/// An instruction of a [`Translated`] block.
pub struct Instruction<'a>(*mut c_void, PhantomData<&'a ()>);

impl Instruction<'_> {
    /// Its virtual address.
    pub fn address(&self) -> u64 {
        // SAFETY: the instruction lives for 'a, as in all functions here.
        unsafe { qemu_plugin_insn_vaddr(self.0) }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; LONGEST];
        // SAFETY: so many bytes may be written there.
        let length = unsafe { qemu_plugin_insn_data(self.0, bytes.as_mut_ptr(), LONGEST) };
        bytes.truncate(length);
        bytes
    }

    /// Lets each execution add one to the count. (By a call: the emulator's own additions are wrong, in version 10.0, when
    /// several cores share a thread.)
    pub fn count(&self, count: &'static AtomicU64) {
        let count = std::ptr::from_ref(count).cast_mut().cast();
        // SAFETY: `executed` gets the count back as it is passed here.
        unsafe { qemu_plugin_register_vcpu_insn_exec_cb(self.0, executed, NO_REGISTERS, count) }
    }

    /// Lets each of its stores that goes to a register of a device add one to the count.
    pub fn count_register_writes(&self, count: &'static AtomicU64) {
        let count = std::ptr::from_ref(count).cast_mut().cast();
        // SAFETY: `written` gets the count back as it is passed here.
        unsafe { qemu_plugin_register_vcpu_mem_cb(self.0, written, NO_REGISTERS, WRITES, count) }
    }

    /// Lets `call` have the physical address of each store to memory that it makes, after the store.
    pub fn on_store(&self, call: fn(u64)) {
        // SAFETY: `stored` gets the function back as it is passed here.
        unsafe { qemu_plugin_register_vcpu_mem_cb(self.0, stored, NO_REGISTERS, WRITES, call as *mut c_void) }
    }
}

extern "C" fn executed(_: c_uint, count: *mut c_void) {
    // SAFETY: `count` above has passed an atomic that lives for ever.
    unsafe { &*count.cast::<AtomicU64>() }.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn written(_: c_uint, access: u32, address: u64, count: *mut c_void) {
    // SAFETY: a place is asked for within the call that tells of the access, and what comes is valid there, or null.
    let is_register = unsafe {
        let place = qemu_plugin_get_hwaddr(access, address);
        !place.is_null() && qemu_plugin_hwaddr_is_io(place)
    };
    // SAFETY: `count_register_writes` has passed an atomic that lives for ever.
    unsafe { &*count.cast::<AtomicU64>() }.fetch_add(u64::from(is_register), Ordering::Relaxed);
}

extern "C" fn stored(_: c_uint, access: u32, address: u64, call: *mut c_void) {
    // SAFETY: a place is asked for within the call that tells of the access, and what comes is valid there, or null.
    let physical = unsafe {
        let place = qemu_plugin_get_hwaddr(access, address);
        (!place.is_null() && !qemu_plugin_hwaddr_is_io(place)).then(|| qemu_plugin_hwaddr_phys_addr(place))
    };
    // SAFETY: `on_store` has passed a function of this type.
    let call: fn(u64) = unsafe { std::mem::transmute(call) };
    physical.into_iter().for_each(call);
}

/// What is called with each block that is translated.
static ON_TRANSLATION: OnceLock<fn(&Translated<'_>)> = OnceLock::new();

/// Lets `call` have each block from now on.
pub fn on_translation(id: u64, call: fn(&Translated<'_>)) {
    let _ = ON_TRANSLATION.set(call);
    // SAFETY: the id is that of the installation, and the function stays.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated) }
}

extern "C" fn block_translated(_: u64, block: *mut c_void) {
    if let Some(call) = ON_TRANSLATION.get() {
        call(&Translated(block, PhantomData));
    }
}
