//! What is proved of the kernel's library: programs that take any inputs, assume something of them, call the library, and
//! assert something of what it did.
//!
//! `symbolic` translates the LLVM IR of these programs, with all of the library that they call, into formulas, and proves
//! for every value of the inputs that no assertion fails, nothing panics or overflows, no memory is reached that is not there, and
//! every loop ends within its bound. The same programs run on the host with random inputs, which is how the translator is
//! tested. The specification that results and states are held against is [`spec`]: `cap_spec::machine` said again over
//! arrays, which a solver can look at whole.
#![no_std]

pub mod forest;
pub mod input;
pub mod lookup;
pub mod memory;
pub mod mistakes;
pub mod spec;
pub mod time;
pub mod world;

use cap_spec::properties::Property;

/// A program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name, which is also that of its symbol.
    pub name: &'static str,
    /// What of the kernel it is about.
    pub operation: &'static str,
    /// How many slots its world has.
    pub slots: usize,
    /// Runs it on the host.
    pub run: fn(),
    /// It has a mistake in it that must be found.
    pub is_wrong: bool,
    /// What it establishes beside that it panics nowhere.
    pub properties: &'static [Property],
}

/// Every state is well-formed again, and what the specification says.
const REFINES: &[Property] = &[Property::WellFormed, Property::Refinement];

/// What the above says, of steps of which each but the last takes a capability: so they come to an end.
const ENDS: &[Property] = &[Property::WellFormed, Property::Refinement, Property::BoundedWork];

/// A call is decoded as the specification says; as nothing is changed before that, one that fails changes nothing.
const DECODES: &[Property] = &[Property::FailureChangesNothing, Property::Refinement];

macro_rules! programs {
    ($($name:ident = $program:path, $slots:literal $($vms:literal)?, $operation:literal, $properties:expr $(, $wrong:ident)?;)*) => {
        $(
            #[doc = concat!("Of ", $operation, ".")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() {
                $program(&mut kernel::Kernel::new(world::World::<$slots $(, $vms)?>::new()))
            }
        )*

        /// Every program.
        pub const PROGRAMS: &[Program] = &[$(Program {
            name: stringify!($name),
            operation: $operation,
            slots: $slots,
            run: || $program(&mut kernel::Kernel::new(world::World::<$slots $(, $vms)?>::new())),
            is_wrong: programs!(@wrong $($wrong)?),
            properties: $properties,
        }),*];
    };
    (@wrong wrong) => { true };
    (@wrong) => { false };
}

programs! {
    copy_4 = forest::copy, 4, "CNode.Copy", REFINES;
    move_4 = forest::move_, 4, "CNode.Move", REFINES;
    delete_copy_4 = forest::delete_copy, 4, "CNode.Delete of a copy", REFINES;
    mint_4 = forest::mint, 4, "CNode.Mint", REFINES;
    delete_step_4 = forest::delete_step, 4, "a step of CNode.Delete of an original", ENDS;
    revoke_step_4 = forest::revoke_step, 4, "a step of CNode.Revoke", ENDS;
    retype_4 = memory::retype, 4, "Untyped.Retype in slots", REFINES;
    share_4 = time::share_is_bounded, 4, "the share of a reservation", &[Property::TimeDelivered];
    split_time_4 = time::split, 4, "CpuTime.Split", REFINES;
    split_sums_4 = time::split_keeps_sums, 4, "sums of shares in CpuTime.Split", &[Property::TimeDelivered];
    resize_sums_4 = time::resize_keeps_sums, 4, "sums of shares in CpuTime.Resize", &[Property::TimeDelivered];
    end_sums_4 = time::end_keeps_sums, 4, "sums of shares when CpuTime goes", &[Property::TimeDelivered];
    decode_copy_8 = lookup::copy, 8 1, "decoding of CNode.Copy", DECODES;
    decode_mint_8 = lookup::mint, 8 1, "decoding of CNode.Mint", DECODES;
    decode_move_8 = lookup::move_, 8 1, "decoding of CNode.Move", DECODES;
    decode_delete_8 = lookup::delete, 8 1, "decoding of CNode.Delete", DECODES;
    decode_revoke_8 = lookup::revoke, 8 1, "decoding of CNode.Revoke", DECODES;
    wrong_rights_4 = mistakes::rights_kept, 4, "a copy with a right too many", REFINES, wrong;
    wrong_link_4 = mistakes::link_left, 4, "a move that leaves a link to the old slot", REFINES, wrong;
    wrong_children_4 = mistakes::children_lost, 4, "a deletion that loses children", REFINES, wrong;
    wrong_room_4 = time::split_without_room, 4, "a Split that asks for no room", &[], wrong;
    wrong_slot_4 = mistakes::slot_behind, 4, "a move to the slot behind the last", REFINES, wrong;
}
