//! The code of child VMs: a few instructions each, position-independent, copied by the root VM into a page.
//!
//! A child finds its end of the channel to the root VM in slot 5 and one or two shared pages at
//! [`crate::root::SHARED`].

macro_rules! children {
    ($($(#[$doc:meta])* $name:ident: $($line:expr),+ ;)*) => {
        $(
            core::arch::global_asm!(
                concat!(".global child_", stringify!($name)),
                concat!("child_", stringify!($name), ":"),
                // Every child may use every name.
                "/* {shared} {signal_wait} {signal} {channel} {wait} {vcpu} {map} {unmap} {copy} {delete} {start} \
                 {slept} {prompt_ticks} {away_ticks} */",
                $($line,)+
                concat!(".global child_", stringify!($name), "_end"),
                concat!("child_", stringify!($name), "_end:"),
                shared = const crate::root::SHARED,
                signal_wait = const cap_spec::abi::Label::ChannelWait as u64,
                signal = const cap_spec::abi::Label::ChannelSignal as u64,
                channel = const crate::root::CHILD_CHANNEL,
                map = const cap_spec::abi::Label::FrameMap as u64,
                unmap = const cap_spec::abi::Label::FrameUnmap as u64,
                copy = const cap_spec::abi::Label::CNodeCopy as u64,
                delete = const cap_spec::abi::Label::CNodeDelete as u64,
                slept = const crate::switched::SLEPT,
                prompt_ticks = const crate::switched::PROMPT_TICKS,
                away_ticks = const crate::switched::AWAY_TICKS,
                start = const cap_spec::abi::Label::VcpuStart as u64,
                wait = const cap_spec::abi::Label::VcpuWait as u64,
                vcpu = const cap_spec::abi::slots::VCPU,
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
pub(crate) use children;

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
        "jmp 2b";
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
        "jmp 2b";
    /// Counts in the first shared word for ever.
    count:
        "mov rbx, {shared}",
        "2:",
        "inc qword ptr [rbx]",
        "jmp 2b";
    /// Takes its own time: the ticks that it has seen pass without a gap, summed into the first shared word; a gap of
    /// more than 2,000 ticks means that it was not current.
    current:
        "mov rbx, {shared}",
        "rdtsc",
        "shl rdx, 32",
        "lea r8, [rdx + rax]",
        "2:",
        "rdtsc",
        "shl rdx, 32",
        "add rax, rdx",
        "mov rcx, rax",
        "sub rcx, r8",
        "mov r8, rax",
        "cmp rcx, 2000",
        "ja 2b",
        "add [rbx], rcx",
        "jmp 2b";
    /// Maps and unmaps the frame in its slot 24 at 1 MiB and a bit, in a loop, or takes a copy of it and deletes it:
    /// what two cores do against each other. Rounds in the first shared word.
    remap:
        "mov rbx, {shared}",
        // The VM's second Vcpu, which only the VM itself can start; refused when it runs.
        "mov eax, {start}",
        "mov edi, 26",
        "vmmcall",
        "2:",
        "mov eax, {map}",
        "mov edi, 24",
        "mov esi, 2",
        "mov edx, 0x150000",
        "mov r10d, 3",
        "vmmcall",
        "mov eax, {unmap}",
        "mov edi, 24",
        "vmmcall",
        "mov eax, {copy}",
        "mov edi, 1",
        "mov esi, 25",
        "mov edx, 24",
        "mov r10d, 3",
        "vmmcall",
        "mov eax, {delete}",
        "mov edi, 1",
        "mov esi, 25",
        "vmmcall",
        "lock inc qword ptr [rbx]",
        "jmp 2b";
    /// Reads the page at 0x150000 of another core's mapping for ever, counting in the first shared word; stops at the
    /// first fault, as it has no upcall.
    reader:
        "mov rbx, {shared}",
        "2:",
        "mov rax, [0x140000]",
        "inc qword ptr [rbx]",
        "jmp 2b";
    /// Interrupts off, for ever; says that it runs by counting in the first shared word.
    spin:
        "cli",
        "mov rbx, {shared}",
        "2:",
        "inc qword ptr [rbx]",
        "jmp 2b";
}
