//! The code of child VMs: a few instructions each, position-independent, copied by the root VM into a page.
//!
//! A child finds its end of the channel to the root VM in slot 5 and one or two shared pages at
//! [`crate::root::SHARED`].

use core::arch::global_asm;

macro_rules! children {
    ($($(#[$doc:meta])* $name:ident: $($line:literal),+ ;)*) => {
        $(
            global_asm!(
                concat!(".global child_", stringify!($name)),
                concat!("child_", stringify!($name), ":"),
                $($line,)+
                concat!(".global child_", stringify!($name), "_end"),
                concat!("child_", stringify!($name), "_end:"),
                shared = const crate::root::SHARED,
                signal_wait = const cap_spec::abi::Label::ChannelWait as u64,
                signal = const cap_spec::abi::Label::ChannelSignal as u64,
                channel = const crate::root::CHILD_CHANNEL,
            );
            $(#[$doc])*
            pub fn $name() -> &'static [u8] {
                unsafe extern "C" {
                    #[link_name = concat!("child_", stringify!($name))]
                    static START: u8;
                    #[link_name = concat!("child_", stringify!($name), "_end")]
                    static END: u8;
                }
                let (start, end) = (&raw const START, &raw const END);
                // SAFETY: both labels are in the text of this image, the second one behind the first.
                unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
            }
        )*
    };
}

children! {
    /// Writes the TSC at its first instruction and then at each wake-up into the first shared word, and answers each
    /// signal with signal-and-wait.
    echo:
        "rdtsc",
        "mov rbx, {shared}",
        "mov [rbx], eax",
        "mov [rbx + 4], edx",
        "2:",
        "mov eax, {signal_wait}",
        "mov edi, {channel}",
        "mov esi, 1",
        "xor edx, edx",
        "vmmcall",
        "rdtsc",
        "mov [rbx], eax",
        "mov [rbx + 4], edx",
        "jmp 2b",
        "/* {signal} */";
    /// Answers each increment of the first shared word by copying it to the second one (on another cache line), with
    /// no kernel in the way; tells that it runs by a signal first.
    ping:
        "mov rbx, {shared}",
        "mov eax, {signal}",
        "mov edi, {channel}",
        "vmmcall",
        "xor eax, eax",
        "2:",
        "mov rcx, [rbx]",
        "cmp rcx, rax",
        "jne 3f",
        "pause",
        "jmp 2b",
        "3:",
        "mov rax, rcx",
        "mov [rbx + 64], rax",
        "jmp 2b",
        "/* {signal_wait} */";
    /// Counts in the first shared word for ever.
    count:
        "mov rbx, {shared}",
        "2:",
        "inc qword ptr [rbx]",
        "jmp 2b",
        "/* {signal_wait} {signal} {channel} */";
}
