//! A TOML document as a tree that remembers where each value stands, and how `--set` changes it.
//!
//! The `toml` crate parses; this tree is what the checks read, so that every complaint can name its line.

use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A line of the scenario file, from 1.
    Line(usize),
    /// The `--set`, `--input` or `--event` argument with this number, from 0.
    Argument(usize),
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where.
    pub place: Place,
    /// What.
    pub value: Value,
}

/// A TOML value. Numbers stay as they are written, so that amounts of money are exact.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer in decimal.
    Integer(i64),
    /// A number with a point or an exponent, as written.
    Float(String),
    /// true or false.
    Boolean(bool),
    /// An array.
    List(Vec<Node>),
    /// A table.
    Table(BTreeMap<String, Node>),
    /// A date, which no scenario has.
    Date,
}

impl Value {
    /// What it is, for complaints.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Boolean(_) => "true or false",
            Value::List(_) => "an array",
            Value::Table(_) => "a table",
            Value::Date => "a date",
        }
    }
}

/// Parses a document.
///
/// # Errors
/// The line and what is wrong with it.
pub fn parse(text: &str) -> Result<Node, (usize, String)> {
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        (line_of(text, at), error.message().to_string())
    })?;
    table(document.into_inner(), Place::Line(1), &|at| Place::Line(line_of(text, at)))
        .map_err(|(place, reason)| (if let Place::Line(line) = place { line } else { 1 }, reason))
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}

type Placer<'a> = &'a dyn Fn(usize) -> Place;

fn table(table: DeTable<'_>, place: Place, placer: Placer<'_>) -> Result<Node, (Place, String)> {
    let mut entries = BTreeMap::new();
    for (key, value) in table {
        // The key's place, not the value's: for a sub-table the value starts elsewhere.
        let at = key.span().start;
        entries.insert(key.into_inner().into_owned(), node(value, Some(placer(at)), placer)?);
    }
    Ok(Node { place, value: Value::Table(entries) })
}

fn node(value: Spanned<DeValue<'_>>, place: Option<Place>, placer: Placer<'_>) -> Result<Node, (Place, String)> {
    let place = place.unwrap_or_else(|| placer(value.span().start));
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(
            i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| (place, format!("{number} is too large a number")))?,
        ),
        DeValue::Float(number) => Value::Float(number.as_str().to_string()),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => {
            let items: Result<Vec<Node>, _> = items.into_iter().map(|item| node(item, None, placer)).collect();
            Value::List(items?)
        }
        DeValue::Table(inner) => return table(inner, place, placer),
    };
    Ok(Node { place, value })
}

/// Applies `--set KEY=VALUE`, the argument with this number. The key is a dotted path; an element of an array of
/// tables is named by its `name`, as in `app.cache.valuation`. A value that is no TOML is taken as a string.
///
/// # Errors
/// The reason.
pub fn set(root: &mut Node, number: usize, argument: &str) -> Result<(), String> {
    let place = Place::Argument(number);
    let Some((path, text)) = argument.split_once('=') else {
        return Err("it must be KEY=VALUE, for instance app.cache.valuation=0.001".into());
    };
    let value = parse_value(text.trim(), place);
    let mut steps: Vec<&str> = path.trim().split('.').collect();
    let Some(last) = steps.pop().filter(|last| !last.is_empty()) else {
        return Err("the key is empty".into());
    };
    let mut here = root;
    let mut walked = String::new();
    for step in steps {
        let known = |names: Vec<&str>| {
            let names = if names.is_empty() { "nothing".into() } else { names.join(", ") };
            format!(
                "there is no `{step}` in `{}`; there is: {names}",
                if walked.is_empty() { "the scenario" } else { &walked }
            )
        };
        here = match &mut here.value {
            Value::Table(entries) => {
                entries.entry(step.to_string()).or_insert_with(|| Node { place, value: Value::Table(BTreeMap::new()) })
            }
            Value::List(items) => {
                let position = items.iter().position(|item| name_of(item) == Some(step));
                match position {
                    Some(position) => &mut items[position],
                    None => return Err(known(items.iter().filter_map(name_of).collect())),
                }
            }
            other => return Err(format!("`{walked}` is {}, not a table", other.kind())),
        };
        if !walked.is_empty() {
            walked.push('.');
        }
        walked.push_str(step);
    }
    match &mut here.value {
        Value::Table(entries) => {
            entries.insert(last.to_string(), Node { place, value });
            Ok(())
        }
        Value::List(_) => Err(format!("say which `{walked}`: {walked}.NAME.KEY=VALUE")),
        other => Err(format!("`{walked}` is {}, not a table", other.kind())),
    }
}

fn name_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Table(entries) => match entries.get("name").map(|node| &node.value) {
            Some(Value::Text(name)) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

fn parse_value(text: &str, place: Place) -> Value {
    let parsed = DeValue::parse(text).ok().and_then(|value| node(value, Some(place), &|_| place).ok());
    parsed.map_or_else(|| Value::Text(text.to_string()), |node| node.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'n>(node: &'n Node, path: &[&str]) -> &'n Node {
        path.iter().fold(node, |node, step| match &node.value {
            Value::Table(entries) => &entries[*step],
            Value::List(items) => items.iter().find(|item| name_of(item) == Some(step)).unwrap(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn places_are_lines() {
        let tree = parse("a = 1\n\n[page]\nreserve = 1.5\n[[app]]\nname = \"x\"\n").unwrap();
        assert_eq!(at(&tree, &["page", "reserve"]).place, Place::Line(4));
        assert_eq!(at(&tree, &["app", "x", "name"]).place, Place::Line(6));
        assert_eq!(at(&tree, &["app", "x"]).place, Place::Line(5));
        let (line, reason) = parse("a = 1\nb = = 2\n").unwrap_err();
        assert_eq!(line, 2, "{reason}");
    }

    #[test]
    fn set_reaches_tables_and_named_elements() {
        let mut tree = parse("[[app]]\nname = \"x\"\ncore = 1\n[[app]]\nname = \"y\"\n").unwrap();
        set(&mut tree, 0, "app.x.core=0").unwrap();
        set(&mut tree, 1, "page.reserve = 0.25").unwrap();
        set(&mut tree, 2, "app.y.input=@sources").unwrap();
        assert!(matches!(at(&tree, &["app", "x", "core"]).value, Value::Integer(0)));
        assert!(matches!(&at(&tree, &["page", "reserve"]).value, Value::Float(text) if text == "0.25"));
        assert!(matches!(&at(&tree, &["app", "y", "input"]).value, Value::Text(text) if text == "@sources"));
        assert_eq!(at(&tree, &["app", "y", "input"]).place, Place::Argument(2));
        assert!(set(&mut tree, 3, "app.z.core=0").unwrap_err().contains("x, y"));
        assert!(set(&mut tree, 3, "app.core=0").unwrap_err().contains("NAME"));
        assert!(set(&mut tree, 3, "nonsense").is_err());
        assert!(set(&mut tree, 3, "app.x.core.deep=1").is_err());
    }
}
