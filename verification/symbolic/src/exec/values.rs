//! Instructions that make values: numbers, pointers, aggregates.

use super::{Frame, Machine, Place, Pointer, Value};
use crate::ir::{Action, Arithmetic, Cast, Operand, Predicate, Type, layout_of};
use crate::term::{Binary, Compare, Term};
use anyhow::{Result, anyhow, bail};

impl Machine<'_> {
    /// The size of a type in bytes.
    pub(super) fn size(&self, ty: &Type) -> Result<u64> {
        Ok(layout_of(&self.module.types, ty)?.0)
    }

    fn resolve<'t>(&'t self, ty: &'t Type) -> Result<&'t Type> {
        match ty {
            Type::Named(name) => {
                self.resolve(self.module.types.get(name).ok_or_else(|| anyhow!("type {name} is not defined"))?)
            }
            other => Ok(other),
        }
    }

    /// A value as a number of this width.
    pub(super) fn number(&mut self, value: Value, width: u32) -> Result<Term> {
        match value {
            Value::Number(term) if self.pool.width(term) == width => Ok(term),
            Value::Unknown => Ok(self.unknown(width)),
            other => bail!("a number of {width} bits expected, found {other:?}"),
        }
    }

    /// A value as a pointer.
    pub(super) fn as_pointer(&mut self, value: Value) -> Result<Pointer> {
        match value {
            Value::Pointer(pointer) => Ok(pointer),
            other => bail!("a pointer expected, found {other:?}"),
        }
    }

    /// What an operand stands for.
    pub(super) fn operand(&mut self, frame: &Frame, ty: &Type, operand: &Operand) -> Result<Value> {
        Ok(match operand {
            Operand::Local(local) => {
                frame.values[*local].clone().ok_or_else(|| anyhow!("value {local} is used before it is made"))?
            }
            other => self.constant(ty, other)?,
        })
    }

    /// What an operand that is no value of the function stands for.
    fn constant(&mut self, ty: &Type, operand: &Operand) -> Result<Value> {
        let ty = self.resolve(ty)?.clone();
        Ok(match (operand, &ty) {
            (Operand::Int(value), Type::Int(width)) => Value::Number(self.pool.constant(*width, *value)),
            (Operand::Zero, Type::Int(width)) => Value::Number(self.pool.constant(*width, 0)),
            (Operand::Null | Operand::Zero, Type::Ptr) => Value::Pointer(self.pointer(0, 0)),
            (Operand::IntToPtr(address), _) => Value::Pointer(self.pointer(0, *address as u64)),
            (Operand::Undef, _) => Value::Unknown,
            (Operand::Global(name), _) => Value::Pointer(self.global(name, 0)?),
            (Operand::Offset(name, offset), _) => Value::Pointer(self.global(name, *offset)?),
            (Operand::Aggregate(parts), _) => {
                let parts = parts.iter().map(|(ty, part)| self.constant(ty, part)).collect::<Result<_>>()?;
                Value::Aggregate(parts)
            }
            (Operand::Zero, Type::Struct(parts, _)) => {
                let parts = parts.iter().map(|ty| self.constant(ty, &Operand::Zero)).collect::<Result<_>>()?;
                Value::Aggregate(parts)
            }
            (operand, ty) => bail!("{operand:?} as {ty:?}"),
        })
    }

    /// A pointer to a constant of the module.
    fn global(&mut self, name: &str, offset: u64) -> Result<Pointer> {
        let object = match self.constants.get(name) {
            Some(object) => *object,
            None => {
                if let Some(reason) = self.module.unread.get(name) {
                    bail!("{name} is reached, and was not understood: {reason}");
                }
                let mut bytes = Vec::new();
                match self.module.globals.get(name) {
                    Some(global) => {
                        let (ty, content) = (global.ty.clone(), global.content.clone());
                        self.flatten(&ty, &content, &mut bytes)?;
                    }
                    // A function, or a variable of another library: it has an address.
                    None => bytes.push(None),
                }
                let object = self.new_constant(bytes);
                self.constants.insert(name.into(), object);
                object
            }
        };
        Ok(self.pointer(object, offset))
    }

    /// The bytes of a constant.
    fn flatten(&self, ty: &Type, content: &Operand, bytes: &mut Vec<Option<u8>>) -> Result<()> {
        let ty = self.resolve(ty)?;
        let size = self.size(ty)? as usize;
        let start = bytes.len();
        match (content, ty) {
            (Operand::Bytes(own), _) => bytes.extend(own.iter().map(|byte| Some(*byte))),
            (Operand::Int(value), _) => bytes.extend(value.to_le_bytes().iter().take(size).map(|byte| Some(*byte))),
            (Operand::Zero | Operand::Null, _) => bytes.extend(std::iter::repeat_n(Some(0), size)),
            (Operand::Aggregate(parts), Type::Struct(_, packed)) => {
                for (ty, part) in parts {
                    if !packed {
                        let align = layout_of(&self.module.types, ty)?.1 as usize;
                        while !(bytes.len() - start).is_multiple_of(align) {
                            bytes.push(None);
                        }
                    }
                    self.flatten(ty, part, bytes)?;
                }
            }
            (Operand::Aggregate(parts), _) => {
                for (ty, part) in parts {
                    self.flatten(ty, part, bytes)?;
                }
            }
            // Of an address the bytes are any.
            _ => bytes.extend(std::iter::repeat_n(None, size)),
        }
        bytes.resize(start + size, None);
        Ok(())
    }

    /// One of two values.
    pub(super) fn choose(&mut self, condition: Term, a: &Value, b: &Value) -> Result<Value> {
        if self.pool.is_true(condition) {
            return Ok(a.clone());
        }
        if self.pool.is_false(condition) {
            return Ok(b.clone());
        }
        Ok(match (a, b) {
            (Value::Number(a), Value::Number(b)) => Value::Number(self.pool.ite(condition, *a, *b)),
            (Value::Pointer(a), Value::Pointer(b)) => Value::Pointer(self.choose_pointer(condition, a, b)),
            (Value::Aggregate(a), Value::Aggregate(b)) if a.len() == b.len() => {
                let pairs = a.iter().zip(b);
                Value::Aggregate(pairs.map(|(a, b)| self.choose(condition, a, b)).collect::<Result<_>>()?)
            }
            (Value::Unknown, Value::Unknown) => Value::Unknown,
            (Value::Number(a), Value::Unknown) => {
                let any = self.unknown(self.pool.width(*a));
                Value::Number(self.pool.ite(condition, *a, any))
            }
            (Value::Unknown, Value::Number(b)) => {
                let any = self.unknown(self.pool.width(*b));
                Value::Number(self.pool.ite(condition, any, *b))
            }
            // A pointer that is used where it is any is one that leads nowhere.
            (Value::Pointer(a), Value::Unknown) => {
                let nowhere = self.pointer(0, 0);
                Value::Pointer(self.choose_pointer(condition, a, &nowhere))
            }
            (Value::Unknown, Value::Pointer(b)) => {
                let nowhere = self.pointer(0, 0);
                Value::Pointer(self.choose_pointer(condition, &nowhere, b))
            }
            (Value::Aggregate(a), Value::Unknown) => {
                let parts = a.iter().map(|a| self.choose(condition, a, &Value::Unknown));
                Value::Aggregate(parts.collect::<Result<_>>()?)
            }
            (Value::Unknown, Value::Aggregate(b)) => {
                let parts = b.iter().map(|b| self.choose(condition, &Value::Unknown, b));
                Value::Aggregate(parts.collect::<Result<_>>()?)
            }
            (a, b) => bail!("a choice between {a:?} and {b:?}"),
        })
    }

    fn choose_pointer(&mut self, condition: Term, a: &Pointer, b: &Pointer) -> Pointer {
        let other = self.pool.not(condition);
        let mut places: Pointer = Vec::new();
        for (condition, side) in [(condition, a), (other, b)] {
            for place in side {
                let condition = self.pool.and(condition, place.condition);
                if self.pool.is_false(condition) {
                    continue;
                }
                match places.iter_mut().find(|known| known.object == place.object) {
                    // One place in the object, chosen by its offset.
                    Some(known) => {
                        known.offset = self.pool.ite(condition, place.offset, known.offset);
                        known.condition = self.pool.or(known.condition, condition);
                    }
                    None => places.push(Place { condition, ..place.clone() }),
                }
            }
        }
        places
    }

    /// Executes an instruction. `None`: it never comes back.
    pub(super) fn execute(&mut self, frame: &mut Frame, action: &Action, guard: Term) -> Result<Option<Value>> {
        let value = match action {
            Action::Arithmetic(arithmetic, ty, a, b) => {
                let Type::Int(width) = ty else { bail!("arithmetic of {ty:?}") };
                let (a, b) = (self.operand(frame, ty, a)?, self.operand(frame, ty, b)?);
                let (a, b) = (self.number(a, *width)?, self.number(b, *width)?);
                Value::Number(self.arithmetic(*arithmetic, a, b, guard)?)
            }
            Action::Compare(predicate, ty, a, b) => {
                let (a, b) = (self.operand(frame, ty, a)?, self.operand(frame, ty, b)?);
                let holds = self.comparison(*predicate, ty, a, b)?;
                self.learn(holds);
                Value::Number(holds)
            }
            Action::Cast(cast, from, value, to) => {
                let value = self.operand(frame, from, value)?;
                self.cast(*cast, from, value, to)?
            }
            Action::Element(unit, base, indices) => {
                let base = self.operand(frame, &Type::Ptr, base)?;
                let base = self.as_pointer(base)?;
                let mut pointer = base;
                let mut ty = unit.clone();
                for (at, (index_ty, index)) in indices.iter().enumerate() {
                    let Type::Int(width) = index_ty else { bail!("an index that is no number") };
                    let index = self.operand(frame, index_ty, index)?;
                    let index = self.number(index, *width)?;
                    let index = self.pool.sext(index, 64);
                    let step = if at == 0 {
                        let size = self.size(&ty)?;
                        let size = self.pool.constant(64, size.into());
                        self.pool.binary(Binary::Mul, index, size)
                    } else {
                        let resolved = self.resolve(&ty)?.clone();
                        let (inner, step) = self.step(&resolved, index)?;
                        ty = inner;
                        step
                    };
                    for place in &mut pointer {
                        place.offset = self.pool.binary(Binary::Add, place.offset, step);
                    }
                }
                Value::Pointer(pointer)
            }
            Action::Load(ty, place) => {
                let place = self.operand(frame, &Type::Ptr, place)?;
                let place = self.as_pointer(place)?;
                match self.resolve(ty)?.clone() {
                    Type::Int(width) => {
                        let bytes = u64::from(width.div_ceil(8));
                        let word = self.load(&place, bytes, guard)?;
                        Value::Number(self.pool.extract(word, width - 1, 0))
                    }
                    Type::Ptr => self.load_pointer(&place, guard)?,
                    other => bail!("a load of {other:?}"),
                }
            }
            Action::Store(ty, value, place) => {
                let value = self.operand(frame, ty, value)?;
                let place = self.operand(frame, &Type::Ptr, place)?;
                let place = self.as_pointer(place)?;
                match (self.resolve(ty)?.clone(), value) {
                    (Type::Int(width), value) => {
                        let value = self.number(value, width)?;
                        self.store(&place, value, guard)?;
                    }
                    (_, Value::Pointer(pointer)) => self.store_pointer(&place, &pointer, guard)?,
                    (Type::Ptr, Value::Unknown) => {
                        let nowhere = self.pointer(0, 0);
                        self.store_pointer(&place, &nowhere, guard)?;
                    }
                    (ty, value) => bail!("a store of {value:?} as {ty:?}"),
                }
                Value::Unknown
            }
            Action::Alloca(ty) => {
                let size = self.size(ty)?;
                let number = self.objects.len();
                let object = self.new_object(size, format!("local{number}"));
                Value::Pointer(self.pointer(object, 0))
            }
            Action::Phi(..) => bail!("a phi behind another instruction"),
            Action::Select(condition, ty, a, b) => {
                let condition = self.operand(frame, &Type::Int(1), condition)?;
                let condition = self.number(condition, 1)?;
                let (a, b) = (self.operand(frame, ty, a)?, self.operand(frame, ty, b)?);
                self.choose(condition, &a, &b)?
            }
            Action::Call(ty, callee, arguments) => {
                let Operand::Global(name) = callee else { bail!("a call by pointer") };
                let mut values = Vec::new();
                for (ty, argument) in arguments {
                    values.push(self.operand(frame, ty, argument)?);
                }
                return self.call_or_intrinsic(ty, name, values, guard);
            }
            Action::Extract(ty, value, path) => {
                let mut value = self.operand(frame, ty, value)?;
                for &at in path {
                    value = match value {
                        Value::Aggregate(mut parts) => parts.swap_remove(at as usize),
                        Value::Unknown => Value::Unknown,
                        other => bail!("a part of {other:?}"),
                    };
                }
                value
            }
            Action::Insert(ty, value, inner, part, path) => {
                let value = self.operand(frame, ty, value)?;
                let part = self.operand(frame, inner, part)?;
                let [at] = path[..] else { bail!("a part of a part") };
                let mut parts = match (value, self.resolve(ty)?) {
                    (Value::Aggregate(parts), _) => parts,
                    (Value::Unknown, Type::Struct(parts, _)) => vec![Value::Unknown; parts.len()],
                    (other, ty) => bail!("a part of {other:?} as {ty:?}"),
                };
                parts[at as usize] = part;
                Value::Aggregate(parts)
            }
            Action::Freeze(ty, value) => match (self.operand(frame, ty, value)?, ty) {
                (Value::Unknown, Type::Int(width)) => Value::Number(self.unknown(*width)),
                (value, _) => value,
            },
        };
        Ok(Some(value))
    }

    /// The type of an element of an aggregate, and how many bytes behind its start it begins.
    fn step(&mut self, ty: &Type, index: Term) -> Result<(Type, Term)> {
        match ty {
            Type::Array(_, inner) => {
                let size = self.size(inner)?;
                let size = self.pool.constant(64, size.into());
                Ok(((**inner).clone(), self.pool.binary(Binary::Mul, index, size)))
            }
            Type::Struct(parts, packed) => {
                let at = self.pool.value(index).ok_or_else(|| anyhow!("a field that is chosen"))? as usize;
                let mut offset = 0u64;
                for (number, part) in parts.iter().enumerate() {
                    let (size, align) = layout_of(&self.module.types, part)?;
                    if !packed {
                        offset = offset.next_multiple_of(align);
                    }
                    if number == at {
                        break;
                    }
                    offset += size;
                }
                let inner = parts.get(at).cloned().ok_or_else(|| anyhow!("a field that is not there"))?;
                Ok((inner, self.pool.constant(64, offset.into())))
            }
            other => bail!("an element of {other:?}"),
        }
    }

    fn arithmetic(&mut self, arithmetic: Arithmetic, a: Term, b: Term, guard: Term) -> Result<Term> {
        let Arithmetic { operation, signed_division, nuw, nsw: _ } = arithmetic;
        if signed_division {
            bail!("division with sign");
        }
        let width = self.pool.width(a);
        let result = self.pool.binary(operation, a, b);
        if nuw {
            // The compiler relies on it.
            let overflows = match operation {
                Binary::Add => Some(self.pool.compare(Compare::Ult, result, a)),
                Binary::Sub => Some(self.pool.compare(Compare::Ult, a, b)),
                Binary::Shl => {
                    let back = self.pool.binary(Binary::Lshr, result, b);
                    let same = self.pool.eq(back, a);
                    Some(self.pool.not(same))
                }
                _ => None,
            };
            if let Some(overflows) = overflows {
                let both = self.pool.and(guard, overflows);
                self.oblige(both, format!("{operation:?} overflows"));
            }
        }
        match operation {
            Binary::Udiv | Binary::Urem => {
                let zero = self.pool.constant(width, 0);
                let is_zero = self.pool.eq(b, zero);
                let both = self.pool.and(guard, is_zero);
                self.oblige(both, "a division by 0".into());
            }
            Binary::Shl | Binary::Lshr | Binary::Ashr => {
                let limit = self.pool.constant(width, width.into());
                let fits = self.pool.compare(Compare::Ult, b, limit);
                let misses = self.pool.not(fits);
                let both = self.pool.and(guard, misses);
                self.oblige(both, "a shift by more than the width".into());
            }
            _ => {}
        }
        Ok(result)
    }

    fn comparison(&mut self, predicate: Predicate, ty: &Type, a: Value, b: Value) -> Result<Term> {
        if *ty == Type::Ptr {
            let (Value::Pointer(a), Value::Pointer(b)) = (&a, &b) else { return Ok(self.unknown(1)) };
            let mut same = self.pool.truth(false);
            for x in a {
                for y in b {
                    if x.object == y.object {
                        let offsets = self.pool.eq(x.offset, y.offset);
                        let places = self.pool.and(x.condition, y.condition);
                        let both = self.pool.and(places, offsets);
                        same = self.pool.or(same, both);
                    }
                }
            }
            return match predicate {
                Predicate::Eq => Ok(same),
                Predicate::Ne => Ok(self.pool.not(same)),
                _ => bail!("an order of pointers"),
            };
        }
        let Type::Int(width) = ty else { bail!("a comparison of {ty:?}") };
        let (a, b) = (self.number(a, *width)?, self.number(b, *width)?);
        let pool = &mut self.pool;
        Ok(match predicate {
            Predicate::Eq => pool.eq(a, b),
            Predicate::Ne => {
                let same = pool.eq(a, b);
                pool.not(same)
            }
            Predicate::Ult => pool.compare(Compare::Ult, a, b),
            Predicate::Ule => pool.compare(Compare::Ule, a, b),
            Predicate::Ugt => pool.compare(Compare::Ult, b, a),
            Predicate::Uge => pool.compare(Compare::Ule, b, a),
            Predicate::Slt => pool.compare(Compare::Slt, a, b),
            Predicate::Sle => pool.compare(Compare::Sle, a, b),
            Predicate::Sgt => pool.compare(Compare::Slt, b, a),
            Predicate::Sge => pool.compare(Compare::Sle, b, a),
        })
    }

    fn cast(&mut self, cast: Cast, from: &Type, value: Value, to: &Type) -> Result<Value> {
        Ok(match (cast, from, to) {
            (Cast::Trunc(keeps), Type::Int(old), Type::Int(new)) => {
                let value = self.number(value, *old)?;
                let kept = self.pool.extract(value, new - 1, 0);
                if keeps {
                    // Where something is lost the value is any: it is used only where that is not so.
                    let lost = self.pool.extract(value, old - 1, *new);
                    let zero = self.pool.constant(old - new, 0);
                    let none = self.pool.eq(lost, zero);
                    let any = if self.pool.is_true(none) { kept } else { self.unknown(*new) };
                    return Ok(Value::Number(self.pool.ite(none, kept, any)));
                }
                Value::Number(kept)
            }
            (Cast::Zext, Type::Int(old), Type::Int(new)) => {
                let value = self.number(value, *old)?;
                Value::Number(self.pool.zext(value, *new))
            }
            (Cast::Sext, Type::Int(old), Type::Int(new)) => {
                let value = self.number(value, *old)?;
                Value::Number(self.pool.sext(value, *new))
            }
            (Cast::Same, ..) => value,
            (cast, from, to) => bail!("{cast:?} from {from:?} to {to:?}"),
        })
    }
}
