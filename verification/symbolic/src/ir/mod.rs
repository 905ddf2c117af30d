//! LLVM IR as the compiler writes it for the kernel's library: the part of the language that occurs there.
//!
//! What is not known is an error that names the line, never skipped: nothing is translated that was not understood.

mod parse;
mod reader;
mod text;

pub use parse::parse;
pub use reader::layout_of;

use rustc_hash::FxHashMap;

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Nothing.
    Void,
    /// An integer of so many bits.
    Int(u32),
    /// A pointer.
    Ptr,
    /// So many of one type.
    Array(u64, Box<Type>),
    /// Several, one behind the other; packed or not.
    Struct(Vec<Type>, bool),
    /// One that has a name.
    Named(String),
    /// Metadata and the like: no value.
    Other,
}

/// What an instruction works on.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A value of the function, by number.
    Local(usize),
    /// A number.
    Int(u128),
    /// The null pointer.
    Null,
    /// Any value.
    Undef,
    /// All bits 0.
    Zero,
    /// A function or a variable.
    Global(String),
    /// A number as a pointer.
    IntToPtr(u128),
    /// A place behind a global.
    Offset(String, u64),
    /// Several.
    Aggregate(Vec<(Type, Operand)>),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// An operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Which.
    pub operation: crate::term::Binary,
    /// Signed division.
    pub signed_division: bool,
    /// It does not overflow without sign.
    pub nuw: bool,
    /// It does not overflow with sign.
    pub nsw: bool,
}

/// A conversion of numbers and pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Fewer bits; `true`: none that is set is lost.
    Trunc(bool),
    /// Filled with 0.
    Zext,
    /// Filled with the sign.
    Sext,
    /// The address.
    PtrToInt,
    /// A pointer.
    IntToPtr,
    /// Nothing changes.
    Same,
}

/// A comparison: by LLVM's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// The same.
    Eq,
    /// Not the same.
    Ne,
    /// Less, and so on, without sign.
    Ult,
    /// At most.
    Ule,
    /// More.
    Ugt,
    /// At least.
    Uge,
    /// With sign: less.
    Slt,
    /// At most.
    Sle,
    /// More.
    Sgt,
    /// At least.
    Sge,
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Two numbers.
    Arithmetic(Arithmetic, Type, Operand, Operand),
    /// A comparison.
    Compare(Predicate, Type, Operand, Operand),
    /// A conversion.
    Cast(Cast, Type, Operand, Type),
    /// A place in memory: type, base, indices.
    Element(Type, Operand, Vec<(Type, Operand)>),
    /// What memory holds.
    Load(Type, Operand),
    /// Into memory: type, value, place.
    Store(Type, Operand, Operand),
    /// Memory of this call.
    Alloca(Type),
    /// By where control came from.
    Phi(Type, Vec<(Operand, usize)>),
    /// One of two.
    Select(Operand, Type, Operand, Operand),
    /// A call: what it returns, whom, with what.
    Call(Type, Operand, Vec<(Type, Operand)>),
    /// A part of an aggregate.
    Extract(Type, Operand, Vec<u64>),
    /// An aggregate with one part changed.
    Insert(Type, Operand, Type, Operand, Vec<u64>),
    /// Any value, but always the same.
    Freeze(Type, Operand),
}

/// An instruction, and the value that it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The number of its value.
    pub result: Option<usize>,
    /// What it does.
    pub action: Action,
}

/// How a block ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Control goes to a block.
    Jump(usize),
    /// To the first if it holds, else to the second.
    Branch(Operand, usize, usize),
    /// By number; the block for all others.
    Switch(Type, Operand, usize, Vec<(u128, usize)>),
    /// The call is over.
    Return(Option<(Type, Operand)>),
    /// Never reached.
    Unreachable,
}

/// A row of instructions.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// What it does.
    pub instructions: Vec<Instruction>,
    /// How it ends.
    pub end: End,
}

impl Block {
    /// Where control may go.
    pub fn successors(&self) -> Vec<usize> {
        match &self.end {
            End::Jump(to) => vec![*to],
            End::Branch(_, yes, no) => vec![*yes, *no],
            End::Switch(_, _, default, cases) => {
                let mut all: Vec<usize> = cases.iter().map(|(_, to)| *to).chain([*default]).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
            End::Return(_) | End::Unreachable => Vec::new(),
        }
    }
}

/// A function with its body.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its parameters: type, and number of the value.
    pub parameters: Vec<(Type, usize)>,
    /// What it returns.
    pub result: Type,
    /// Its blocks; the first is where it begins.
    pub blocks: Vec<Block>,
    /// How many values it has.
    pub values: usize,
}

/// A variable that never changes.
#[derive(Clone, Debug)]
pub struct Global {
    /// Its type.
    pub ty: Type,
    /// What it holds.
    pub content: Operand,
}

/// What was read of one or more files.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// Types by name.
    pub types: FxHashMap<String, Type>,
    /// Functions by name.
    pub functions: FxHashMap<String, Function>,
    /// Constants by name.
    pub globals: FxHashMap<String, Global>,
    /// Functions and constants that were not understood, with the reason: an error if one is reached.
    pub unread: FxHashMap<String, String>,
}
