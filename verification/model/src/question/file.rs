//! The file of a question as it is written: every key that there is. `docs/model.md` says what each means.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The question, in a sentence.
    pub question: String,
    /// What the answer is expected to be.
    #[serde(default)]
    pub expect: Expected,
    /// Why there is a counterexample, where one is expected.
    pub because: Option<String>,
    /// Steps of the shortest path that is expected.
    pub steps: Option<usize>,
    /// What VMs may do and can never do, as answers tell it: an answer is as expected if it names these and no others.
    #[serde(default)]
    pub impossible: Vec<String>,
    /// True: too long for every run; `--full` runs it.
    #[serde(default)]
    pub long: bool,
    /// What the machine has.
    #[serde(default)]
    pub machine: Machine,
    /// The VMs.
    pub vm: BTreeMap<String, Vm>,
    /// The capabilities at the start.
    #[serde(default)]
    pub capability: BTreeMap<String, Spanned<Capability>>,
    /// The channels.
    #[serde(default)]
    pub channel: BTreeMap<String, Channel>,
    /// Variables of protocols: their values, the first at the start.
    #[serde(default)]
    pub variables: BTreeMap<String, Vec<String>>,
    /// Names in rows, each of which can be exchanged for any other.
    #[serde(default)]
    pub interchangeable: Option<Spanned<Vec<Vec<String>>>>,
    /// What hardware does by itself: the question is asked of the fine machine.
    pub hardware: Option<Hardware>,
    /// Named properties to check in each state and step.
    #[serde(default)]
    pub check: Vec<Spanned<String>>,
    /// The question's own property.
    pub property: Option<Property>,
}

/// An answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// The property holds.
    #[default]
    Holds,
    /// It does not.
    Counterexample,
}

/// What the machine has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Cores.
    #[serde(default = "one")]
    pub cores: u8,
    /// Functions of devices, by number.
    #[serde(default)]
    pub functions: Vec<Function>,
    /// Slots of each CNode that is no VM's root which events use.
    #[serde(default = "two")]
    pub cnode_slots: u64,
}

fn one() -> u8 {
    1
}

fn two() -> u64 {
    2
}

impl Default for Machine {
    fn default() -> Machine {
        Machine { cores: one(), functions: Vec::new(), cnode_slots: two() }
    }
}

/// What hardware does by itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Guest-physical addresses that VMs with CPU time write at.
    #[serde(default)]
    pub accesses: Vec<u64>,
    /// I/O addresses that functions write at.
    #[serde(default)]
    pub dma: Vec<u64>,
    /// Interrupt routes that are raised.
    #[serde(default)]
    pub interrupts: Vec<u16>,
    /// True: the IOMMU may not say in time that it has forgotten.
    #[serde(default)]
    pub fails: bool,
}

/// A function.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Entries of its MSI-X table.
    #[serde(default)]
    pub messages: u16,
    /// Virtual functions that it can have.
    #[serde(default)]
    pub vfs: u16,
    /// Pages of BAR 0.
    #[serde(default)]
    pub pages: u32,
}

/// A VM.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Slots that it works with.
    pub slots: Spanned<u64>,
    /// True: it has capabilities for its own Vm and Vcpu.
    #[serde(default)]
    pub itself: bool,
    /// True: it has page tables under the first 2 MiB.
    #[serde(default)]
    pub tables: bool,
    /// What it may do.
    #[serde(default)]
    pub may: Vec<Spanned<May>>,
}

/// Something that a VM may do.
#[derive(Debug)]
pub enum May {
    /// An invocation.
    Always(String),
    /// A step of a protocol.
    Rule(Rule),
}

// By hand, as places in the file are not known to serde's untagged enums.
impl<'de> Deserialize<'de> for May {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<May, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = May;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an invocation such as \"Copy\", or a rule such as { when = ..., do = ..., then = ... }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<May, E> {
                Ok(May::Always(text.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<May, A::Error> {
                Rule::deserialize(MapAccessDeserializer::new(map)).map(May::Rule)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// A step of a protocol.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called in answers.
    pub name: Option<String>,
    /// When it may be taken.
    pub when: Option<Spanned<String>>,
    /// The invocation, if it makes one.
    #[serde(rename = "do")]
    pub invocation: Option<Spanned<String>>,
    /// What variables are then, if it succeeded.
    pub then: Option<Spanned<String>>,
    /// What they are if it was refused.
    #[serde(rename = "else")]
    pub otherwise: Option<Spanned<String>>,
}

/// A capability at the start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// Type of a new object.
    #[serde(rename = "type")]
    pub object: Option<Spanned<String>>,
    /// Instead: the capability of which this is a copy.
    pub copy_of: Option<Spanned<String>>,
    /// Who has it; nobody: it is the machine's.
    pub holder: Option<Spanned<String>>,
    /// Its rights.
    pub rights: Option<Spanned<String>>,
    /// The Untyped of which it is made; none: the machine's memory.
    pub from: Option<Spanned<String>>,
    /// log2 bytes of an Untyped or Frame, log2 slots of a CNode.
    pub size_bits: Option<u64>,
    /// Core of CPU time.
    #[serde(default)]
    pub core: u8,
    /// Ticks in every period.
    #[serde(default = "thousand")]
    pub budget: u64,
    /// Ticks of a period.
    #[serde(default = "thousand")]
    pub period: u64,
    /// First route or port.
    #[serde(default)]
    pub first: u16,
    /// How many routes or ports.
    #[serde(default = "one_of_range")]
    pub count: u32,
    /// Number of a function.
    #[serde(default)]
    pub function: u16,
    /// Guest-physical address at which the holder has the frame mapped.
    pub mapped_at: Option<u64>,
    /// True: the holder's Vcpu has this CPU time.
    #[serde(default)]
    pub bound: bool,
    /// True: page tables are under the first 2 MiB of the domain.
    #[serde(default)]
    pub tables: bool,
}

fn thousand() -> u64 {
    1_000
}

fn one_of_range() -> u32 {
    1
}

/// A channel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// The VMs at ends 1 and 2.
    pub between: Spanned<[String; 2]>,
    /// Rights of the capabilities for ends 1 and 2.
    pub rights: Option<[Spanned<String>; 2]>,
    /// True: both receive signals, as event 1.
    #[serde(default)]
    pub signals: bool,
}

/// The question's own property.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Property {
    /// This is never so.
    pub never: Option<Spanned<String>>,
    /// This is always so.
    pub always: Option<Spanned<String>>,
    /// This is so at some time.
    pub reachable: Option<Spanned<String>>,
    /// From the moment at which this is so.
    pub after: Option<Spanned<String>>,
    /// Until this is so.
    pub unless: Option<Spanned<String>>,
}
