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
                "/* {shared} {signal_wait} {signal} {channel} {wait} {vcpu} {map} {unmap} {start} \
                 {retype} {revoke} {frame} {self_ipi} {slept} {prompt_ticks} {away_ticks} {watched} {mark} */",
                $($line,)+
                concat!(".global child_", stringify!($name), "_end"),
                concat!("child_", stringify!($name), "_end:"),
                shared = const crate::root::SHARED,
                signal_wait = const cap_spec::abi::Label::ChannelWait as u64,
                signal = const cap_spec::abi::Label::ChannelSignal as u64,
                channel = const crate::root::CHILD_CHANNEL,
                map = const cap_spec::abi::Label::FrameMap as u64,
                unmap = const cap_spec::abi::Label::FrameUnmap as u64,
                retype = const cap_spec::abi::Label::UntypedRetype as u64,
                revoke = const cap_spec::abi::Label::CNodeRevoke as u64,
                frame = const cap_spec::abi::ObjectType::Frame as u64,
                slept = const crate::switched::SLEPT,
                prompt_ticks = const crate::interrupted::PROMPT_TICKS,
                away_ticks = const crate::interrupted::AWAY_TICKS,
                watched = const crate::driven::WATCHED,
                self_ipi = const 0x83f,
                mark = const proto::host::COUNT_MARK,
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

/// Offsets in the shared page of [`periods`].
pub mod at {
    /// Whole periods seen.
    pub const PERIODS: usize = 0x08;
    /// Ticks by which the worst of them came up short.
    pub const SHORT: usize = 0x10;
    /// Stretches of ten periods seen.
    pub const STRETCHES: usize = 0x18;
    /// Ticks by which the worst stretch came up short.
    pub const STRETCH_SHORT: usize = 0x20;
    /// Ticks by which the best of the periods had more than the budget.
    pub const OVER: usize = 0x28;
    /// Given: period, budget, and the gap between two readings of the clock that counts as away; ticks.
    pub const PERIOD: usize = 0x30;
    /// See `PERIOD`.
    pub const BUDGET: usize = 0x38;
    /// See `PERIOD`.
    pub const GAP: usize = 0x40;
}

/// Offsets in the shared page of [`gaps`].
pub mod watcher {
    /// Readings of the clock.
    pub const ROUNDS: usize = 0x00;
    /// How many came more than [`GAP`] ticks after the one before.
    pub const GAPS: usize = 0x08;
    /// Given.
    pub const GAP: usize = 0x10;
}

/// Offsets in the shared page of [`keeps`].
pub mod keeper {
    /// Rounds made over the pages.
    pub const ROUNDS: usize = 0x00;
    /// Given: the pattern.
    pub const PATTERN: usize = 0x08;
    /// Pages that are full of it.
    pub const FILLED: usize = 0x10;
    /// How often a word was found changed.
    pub const DAMAGED: usize = 0x18;
    /// Pages behind the code that it fills.
    pub const PAGES: u16 = 6;
    /// Slot of its lease of two pages, which it maps at 0x150000.
    pub const LEASE: u16 = 50;
}

children! {
    /// Fills its pages, two more that it makes of the lease in its slot [`keeper::LEASE`], and registers with the pattern;
    /// then looks over and over whether it is still there. See [`keeper`]. Stops if the lease is taken.
    keeps:
        "mov rbx, {shared}",
        "mov eax, {retype}",
        "mov edi, 50",
        "mov esi, {frame}",
        "mov edx, 12",
        "mov r10d, 1",
        "mov r8d, 51",
        "mov r9d, 2",
        "vmmcall",
        "mov eax, {map}",
        "mov edi, 51",
        "mov esi, 2",
        "mov edx, 0x150000",
        "mov r10d, 3",
        "mov r8d, 1",
        "vmmcall",
        "mov rax, [rbx + 0x08]",
        // Extended state, too, which lies in the Vcpu while it is out.
        "movq xmm0, rax",
        "movq xmm15, rax",
        "mov r15, rax",
        "mov edi, 0x4000",
        "mov ecx, 6 * 512",
        "rep stosq",
        "mov edi, 0x150000",
        "mov ecx, 2 * 512",
        "rep stosq",
        "mov qword ptr [rbx + 0x10], 8",
        "2:",
        "mov edi, 0x4000",
        "mov ecx, 6 * 512",
        "repe scasq",
        "jne 3f",
        "mov edi, 0x150000",
        "mov ecx, 2 * 512",
        "repe scasq",
        "jne 3f",
        "inc qword ptr [rbx]",
        "jmp 2b",
        "3:",
        "inc qword ptr [rbx + 0x18]",
        "jmp 2b";
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
    /// As [`echo`], and has the count of instructions that were no VM's in the second shared word each time.
    stamps:
        "rdtsc",
        "mov rbx, {shared}",
        "mov [rbx], eax",
        "mov [rbx + 4], edx",
        "mov qword ptr [rbx + 8], {mark}",
        "2:",
        "mov eax, {signal_wait}",
        "mov edi, {channel}",
        "mov esi, 1",
        "xor edx, edx",
        "vmmcall",
        "rdtsc",
        "mov [rbx], eax",
        "mov [rbx + 4], edx",
        "mov qword ptr [rbx + 8], {mark}",
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
    /// Takes its own time: the ticks that it has seen pass without a gap, compared with its budget at the end of each
    /// period of the clock, and after ten of them; see [`at`].
    periods:
        "mov rbx, {shared}",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov r8, rax",
        "xor edx, edx",
        "div qword ptr [rbx + 0x30]",
        "inc rax",
        "mul qword ptr [rbx + 0x30]",
        "mov r9, rax",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "2:",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rcx, rax",
        "sub rcx, r8",
        "mov r8, rax",
        "cmp rcx, [rbx + 0x40]",
        "ja 3f",
        "add r11, rcx",
        "3:",
        "cmp rax, r9",
        "jb 2b",
        // The period is over, and maybe others that passed while it was away altogether.
        "add r9, [rbx + 0x30]",
        "test r10d, r10d",
        "jz 6f",
        "inc qword ptr [rbx + 0x08]",
        "mov rcx, [rbx + 0x38]",
        "mov rdx, r11",
        "sub rdx, rcx",
        "jbe 7f",
        "cmp rdx, [rbx + 0x28]",
        "jbe 7f",
        "mov [rbx + 0x28], rdx",
        "7:",
        // More than the budget in one period does not make up for less in another.
        "cmp r11, rcx",
        "cmova r11, rcx",
        "add r13, r11",
        "sub rcx, r11",
        "cmp rcx, [rbx + 0x10]",
        "jbe 4f",
        "mov [rbx + 0x10], rcx",
        "4:",
        "inc r14d",
        "cmp r14d, 10",
        "jb 6f",
        "inc qword ptr [rbx + 0x18]",
        "imul rcx, [rbx + 0x38], 10",
        "sub rcx, r13",
        "cmp rcx, [rbx + 0x20]",
        "jbe 5f",
        "mov [rbx + 0x20], rcx",
        "5:",
        "xor r13d, r13d",
        "xor r14d, r14d",
        // The first period was not seen whole.
        "6:",
        "mov r10d, 1",
        "xor r11d, r11d",
        "jmp 3b";
    /// Reads the clock for ever, with interrupts off, and counts the gaps; see [`watcher`].
    gaps:
        "cli",
        "mov rbx, {shared}",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov r8, rax",
        "2:",
        "inc qword ptr [rbx]",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rcx, rax",
        "sub rcx, r8",
        "mov r8, rax",
        "cmp rcx, [rbx + 0x10]",
        "jbe 2b",
        "inc qword ptr [rbx + 0x08]",
        "jmp 2b";
    /// Writes 7 to two registers in the page behind its shared one, whose offsets the shared page tells, and counts in its first
    /// word, over and over.
    rings:
        "mov rbx, {shared}",
        "mov rcx, [rbx + 0x10]",
        "mov rdx, [rbx + 0x18]",
        "2:",
        "mov dword ptr [rbx + rcx + 0x1000], 7",
        "mov dword ptr [rbx + rdx + 0x1000], 7",
        "inc qword ptr [rbx]",
        "jmp 2b";
    /// Sleeps for a moment and wakes, as often as it can, counting in the first shared word.
    storm:
        "mov rbx, {shared}",
        "2:",
        "inc qword ptr [rbx]",
        "rdtsc",
        "shl rdx, 32",
        "or rdx, rax",
        "add rdx, 10000",
        "mov eax, {wait}",
        "mov edi, {vcpu}",
        "mov esi, 2",
        "vmmcall",
        "jmp 2b";
    /// As [`storm`], with every vector requested and never taken: each wakes it as soon as another one gets the core, and
    /// all are taken out of the core and put back each time.
    pending:
        "cli",
        "mov rbx, {shared}",
        "mov eax, 32",
        "2:",
        "mov ecx, {self_ipi}",
        "xor edx, edx",
        "wrmsr",
        "inc eax",
        "cmp eax, 256",
        "jb 2b",
        "3:",
        "inc qword ptr [rbx]",
        "rdtsc",
        "shl rdx, 32",
        "or rdx, rax",
        "add rdx, 10000",
        "mov eax, {wait}",
        "mov edi, {vcpu}",
        "mov esi, 2",
        "vmmcall",
        "jmp 3b";
    /// Makes eight frames of the Untyped in its slot 24 and revokes it, which scrubs them, in a loop; counts in the first
    /// shared word.
    churn:
        "mov rbx, {shared}",
        "2:",
        "mov eax, {retype}",
        "mov edi, 24",
        "mov esi, {frame}",
        "mov edx, 12",
        "mov r10d, 1",
        "mov r8d, 40",
        "mov r9d, 8",
        "vmmcall",
        "test eax, eax",
        "jnz 3f",
        "mov eax, {revoke}",
        "mov edi, 1",
        "mov esi, 24",
        "vmmcall",
        "test eax, eax",
        "jnz 3f",
        "inc qword ptr [rbx]",
        "jmp 2b",
        "3:",
        "jmp 3b";
    /// Waits until it is told to (by the word at 0x80), revokes the Untyped in its slot 24, and counts from then on.
    revoker:
        "mov rbx, {shared}",
        "2:",
        "pause",
        "cmp qword ptr [rbx + 0x80], 0",
        "je 2b",
        "mov eax, {revoke}",
        "mov edi, 1",
        "mov esi, 24",
        "vmmcall",
        "mov [rbx + 0x10], eax",
        "3:",
        "inc qword ptr [rbx + 8]",
        "jmp 3b";
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
