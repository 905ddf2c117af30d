//! Small guests for tests: hostile applications, the victim beside them, probes and the bench.
#![no_std]
// The operands of `attempt!` are the attack itself.
#![allow(clippy::macro_metavars_in_unsafe)]

extern crate alloc;

pub mod capabilities;
pub mod card;
pub mod children;
pub mod config_space;
pub mod control;
pub mod driven;
pub mod function;
pub mod instructions;
pub mod interrupt;
pub mod interrupted;
pub mod measure;
pub mod memory;
pub mod nic_dma;
pub mod nic_flood;
pub mod page_fault;
pub mod race;
pub mod ring3;
pub mod rivalry;
pub mod root;
pub mod share;
pub mod switched;
pub mod tenant;
pub mod timer;
pub mod trade;
pub mod trap;
