//! Questions: a file with a small world, what its VMs may do, and a property, read into something that can be explored.

mod expression;
mod file;
mod pattern;
mod setup;
mod tokens;
mod wrong;

use std::path::{Path, PathBuf};

use cap_spec::properties::Property;
use toml::Spanned;

use crate::canonical::Naming;
use crate::symmetry;
use crate::world::{Party, Thing, World};

pub use expression::Condition;
pub use file::{Expected, Hardware};
pub use pattern::{Choice, Names, Pattern, Wanted, Which, label_name, type_name};
pub use wrong::{Source, Wrong};

use expression::{condition, value};
use file::{File, May};
use pattern::pattern;
use tokens::Tokens;
use wrong::choice;

/// Something that a VM may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Who.
    pub party: usize,
    /// What it is called, if it has a name.
    pub name: Option<String>,
    /// When.
    pub when: Option<Condition>,
    /// The invocation; none: a step of the protocol alone.
    pub pattern: Option<Pattern>,
    /// What variables are then: by number, the number of the value.
    pub then: Vec<(usize, usize)>,
    /// What they are if it was refused.
    pub otherwise: Vec<(usize, usize)>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The condition is never true.
    Never,
    /// It is true in each state.
    Always,
    /// It is true at some time.
    Reachable,
}

/// The question's own property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is asked.
    pub kind: Kind,
    /// The condition.
    pub condition: Condition,
    /// How it is written.
    pub text: String,
    /// It is asked from the moment on at which this is true; none: from the start.
    pub after: Option<Condition>,
    /// It is asked until this is true.
    pub unless: Option<Condition>,
}

impl Claim {
    /// What is asked, in one line.
    pub fn shown(&self) -> String {
        let kind = match self.kind {
            Kind::Never => "never",
            Kind::Always => "always",
            Kind::Reachable => "reachable",
        };
        format!("{kind}: {}", self.text)
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct Question {
    /// The file's name without its ending.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// The question, in a sentence.
    pub text: String,
    /// What the answer is expected to be.
    pub expect: Expected,
    /// Why there is a counterexample.
    pub because: Option<String>,
    /// Steps of the shortest path that is expected.
    pub steps: Option<usize>,
    /// What VMs may do and can never do.
    pub impossible: Vec<String>,
    /// True: too long for every run.
    pub long: bool,
    /// Where it begins.
    pub world: World,
    /// The names that it uses.
    pub names: Names,
    /// What the names of capabilities and channels stand for.
    pub things: Vec<Thing>,
    /// What may be done.
    pub actions: Vec<Action>,
    /// Named properties to check.
    pub checks: Vec<Property>,
    /// Its own property.
    pub claim: Option<Claim>,
    /// What hardware does by itself; none: the question is asked of the abstract machine alone.
    pub hardware: Option<Hardware>,
    /// Slots of CNodes that are no VM's root which events use.
    pub cnode_slots: u64,
    /// What is renamed.
    pub naming: Naming,
    /// By what interchangeable VMs can be described.
    pub swaps: Vec<crate::canonical::Swap>,
}

impl Question {
    /// Reads a question. `merges` is false for a search without symmetry.
    ///
    /// # Errors
    /// What is wrong with the file, and where.
    pub fn read(path: &Path, merges: bool) -> Result<Question, Wrong> {
        Question::of(Source::read(path)?, merges)
    }

    /// Reads a question from a text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn of(source: Source, merges: bool) -> Result<Question, Wrong> {
        let file: File = toml::from_str(&source.text).map_err(|error| {
            let help = "docs/model.md has every key".to_owned();
            match error.span() {
                Some(span) => source.at(&span, error.message(), help),
                None => source.whole(error.message().into(), help),
            }
        })?;
        let (world, names, things) = setup::build(&source, &file)?;
        let mut actions = Vec::new();
        for (party, vm) in file.vm.values().enumerate() {
            for may in &vm.may {
                actions.push(action(&source, &names, party, may)?);
            }
        }
        if actions.is_empty() {
            return Err(
                source.whole("no VM may do anything".into(), r#"write may = ["Copy", ...] in a [vm.NAME]"#.into())
            );
        }
        let mut checks = Vec::new();
        for name in &file.check {
            checks.push(
                Property::from_name(name.get_ref())
                    .filter(|property| crate::checks::CHECKED.contains(property))
                    .ok_or_else(|| {
                        let help =
                            format!("write {}", choice(crate::checks::CHECKED.iter().map(|property| property.name())));
                        source.text(name).wrong(0..name.get_ref().len(), "this property is not checked here", help)
                    })?,
            );
        }
        let claim = claim(&source, &names, &file)?;
        if claim.is_none() && checks.is_empty() {
            let help = "add [property] with never, always or reachable, or check = [\"well-formed\"]";
            return Err(source.whole("nothing is asked".into(), help.into()));
        }
        let is_simple = |action: &Action| action.pattern.is_some() && action.when.is_none() && action.then.is_empty();
        let is_fine = file.hardware.is_some();
        if is_fine && (claim.is_some() || !actions.iter().all(is_simple)) {
            let help = "leave [property], `when` and `then` out, or [hardware]";
            return Err(source.whole("with [hardware], named properties alone are checked".into(), help.into()));
        }
        if let (true, Some(unchecked)) = (is_fine, checks.iter().find(|check| !crate::fine::CHECKED.contains(check))) {
            let help = format!("write {}", choice(crate::fine::CHECKED.map(|property| property.name())));
            return Err(source.whole(format!("with [hardware], {} is not checked", unchecked.name()), help));
        }
        let naming = Naming {
            merges,
            renames_slots: !actions.iter().any(has_rows),
            named: things
                .iter()
                .filter_map(|thing| match thing {
                    Thing::Memory(_, extent) => Some(*extent),
                    _ => None,
                })
                .collect(),
            boot: Some(World::boot()),
            roots: world.parties.iter().map(|Party { root, .. }| *root).collect(),
            first_working: crate::world::FIRST_WORKING,
            first_hidden: World::first_hidden(),
        };
        let name = source.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut question = Question {
            name,
            file: source.file.clone(),
            text: file.question,
            expect: file.expect,
            because: file.because,
            steps: file.steps,
            impossible: file.impossible,
            long: file.long,
            world,
            names,
            things,
            actions,
            checks,
            claim,
            hardware: file.hardware.clone(),
            cnode_slots: file.machine.cnode_slots,
            naming,
            swaps: Vec::new(),
        };
        if let (Some(rows), true) = (&file.interchangeable, merges) {
            question.swaps = symmetry::swaps(&question, rows.get_ref()).map_err(|what| {
                source.at(
                    &rows.span(),
                    what,
                    "write only what can be exchanged without a change of the question, row for row",
                )
            })?;
        }
        Ok(question)
    }

    /// The world's VMs.
    pub fn parties(&self) -> &[Party] {
        &self.world.parties
    }
}

/// True if an invocation has a row of slots, so that slots can't be renamed.
fn has_rows(action: &Action) -> bool {
    let Some(pattern) = &action.pattern else { return false };
    let args = pattern.label.spec().args.iter().zip(&pattern.args);
    args.into_iter().any(|(arg, choice)| match (arg.name, choice) {
        ("more", Choice::Numbers(numbers)) => numbers.iter().any(|more| *more != 0),
        // Of a BAR, of virtual functions, and of what Retype makes; a count of routes or ports is no row.
        ("count", Choice::Numbers(numbers)) if !pattern.label.spec().name.starts_with("Split") => {
            numbers.iter().any(|count| *count != 1)
        }
        _ => false,
    })
}

fn action(source: &Source, names: &Names, party: usize, may: &Spanned<May>) -> Result<Action, Wrong> {
    let read = |text: &Spanned<String>| -> Result<Pattern, Wrong> {
        let mut tokens = Tokens::of(source.text(text))?;
        let pattern = pattern(&mut tokens, names)?;
        tokens.end()?;
        crate::actions::check(&pattern)
            .map_err(|(what, help)| source.text(text).wrong(0..text.get_ref().len(), what, help))?;
        Ok(pattern)
    };
    match may.get_ref() {
        May::Always(text) => Ok(Action {
            party,
            name: None,
            when: None,
            pattern: Some(read(&Spanned::new(may.span(), text.clone()))?),
            then: Vec::new(),
            otherwise: Vec::new(),
        }),
        May::Rule(rule) => Ok(Action {
            party,
            name: rule.name.clone(),
            when: rule.when.as_ref().map(|text| whole(source, names, text)).transpose()?,
            pattern: rule.invocation.as_ref().map(read).transpose()?,
            then: rule.then.as_ref().map(|text| assignments(source, names, text)).transpose()?.unwrap_or_default(),
            otherwise: rule
                .otherwise
                .as_ref()
                .map(|text| assignments(source, names, text))
                .transpose()?
                .unwrap_or_default(),
        }),
    }
}

/// A text that is one condition.
fn whole(source: &Source, names: &Names, text: &Spanned<String>) -> Result<Condition, Wrong> {
    let mut tokens = Tokens::of(source.text(text))?;
    let found = condition(&mut tokens, names)?;
    tokens.end()?;
    Ok(found)
}

/// `variable = value, variable = value`.
fn assignments(source: &Source, names: &Names, text: &Spanned<String>) -> Result<Vec<(usize, usize)>, Wrong> {
    let mut tokens = Tokens::of(source.text(text))?;
    let mut found = Vec::new();
    loop {
        let help = format!("write {}", choice(names.variables.iter().map(|(name, _)| name)));
        let (name, span) = tokens.word("the name of a variable", help.clone())?;
        let variable = names.variables.iter().position(|(known, _)| *known == name);
        let variable =
            variable.ok_or_else(|| tokens.text.wrong(span, format!("there is no variable `{name}`"), help))?;
        tokens.expect("=")?;
        found.push((variable, value(&mut tokens, names, variable)?));
        if !tokens.takes(",") {
            tokens.end()?;
            return Ok(found);
        }
    }
}

fn claim(source: &Source, names: &Names, file: &File) -> Result<Option<Claim>, Wrong> {
    let Some(property) = &file.property else { return Ok(None) };
    let asked =
        [(Kind::Never, &property.never), (Kind::Always, &property.always), (Kind::Reachable, &property.reachable)];
    let mut asked = asked.into_iter().filter_map(|(kind, text)| text.as_ref().map(|text| (kind, text)));
    let help = "write exactly one of never, always and reachable";
    let (kind, text) = asked.next().ok_or_else(|| source.whole("[property] asks nothing".into(), help.into()))?;
    if let Some((_, second)) = asked.next() {
        return Err(source.at(&second.span(), "a second condition", help));
    }
    Ok(Some(Claim {
        kind,
        condition: whole(source, names, text)?,
        text: text.get_ref().clone(),
        after: property.after.as_ref().map(|text| whole(source, names, text)).transpose()?,
        unless: property.unless.as_ref().map(|text| whole(source, names, text)).transpose()?,
    }))
}
