//! `cargo xtask market clear`: one round of the market on the host, by the code that ships; and `check` and `bench`, which
//! run the mechanism's own tests and measurements, optimised.
//!
//! `clear` reads goods, holdings and bids as JSON, clears each good with [`curve_lane::clear`] and prints allocation,
//! payments, ask and clearing price. The schema is documented in `servers/market/mechanism/README.md`. Amounts and prices
//! are integers of 1e-15 credit, exact in both directions.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use market_mechanism::curve_lane::{self, Award, Entry, Scratch, Step, Tally, Terms, steps_needed, tallies_needed};
use market_mechanism::explain::{Reason, explain};
use market_mechanism::{AccountId, Credits, Curve, Price, Quantity, RoundNo, Segment};
use serde::{Deserialize, Serialize};

use crate::{build, process};

/// What `market clear` takes.
#[derive(Debug, clap::Args)]
pub struct ClearArgs {
    /// The round as JSON, or `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// The package of the rules.
const PACKAGE: &str = "market-mechanism";
/// Makes those of its tests that have a long tier run it.
const FULL: &str = "MARKET_CHECK_FULL";

/// Runs the tests of the rules, optimised; with `full` their long tier: every small market of three bidders, a hundred
/// million operations on the ledger.
///
/// # Errors
/// When a test fails.
pub fn check(full: bool) -> anyhow::Result<()> {
    let mut command = build::cargo();
    command.args(["test", "--release", "--package", PACKAGE, "--no-fail-fast"]);
    if full {
        command.env(FULL, "1");
    }
    // One test at a time, as those that take long use every processor; with what they say on the way.
    process::run(command.args(["--", "--nocapture", "--test-threads", "1"]))
}

/// Measures how long rounds take. For a machine that does nothing else.
///
/// # Errors
/// When a row takes longer than it may.
pub fn bench() -> anyhow::Result<()> {
    process::run(build::cargo().args(["bench", "--package", PACKAGE, "--bench", "rounds"]))
}

/// A round to clear.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Round {
    /// Its number, which only matters for ties.
    #[serde(default)]
    round: u64,
    goods: Vec<Good>,
    #[serde(default)]
    holdings: Vec<Holding>,
    bids: Vec<Bid>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Good {
    name: String,
    /// Units above all bases.
    supply: u32,
    reserve: u64,
    #[serde(default)]
    fee: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holding {
    account: u32,
    good: String,
    /// What the round before gave, above the base.
    units: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bid {
    account: u32,
    good: String,
    segments: Vec<BidSegment>,
    #[serde(default)]
    keep: u64,
    /// No limit if it is left out.
    max_payment: Option<i128>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BidSegment {
    quantity: u32,
    value: u64,
}

/// The answer, in the order of the goods given.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Answer {
    round: u64,
    goods: Vec<GoodAnswer>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct GoodAnswer {
    name: String,
    clearing: u64,
    /// `null` if there is no supply.
    ask: Option<u64>,
    sold: u32,
    unsold: u32,
    welfare: i128,
    /// In ascending order of account.
    awards: Vec<AwardAnswer>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
struct AwardAnswer {
    account: u32,
    held: u32,
    units: u32,
    payment: i128,
    /// Why there was not one unit more.
    reason: &'static str,
    /// What one unit more would have had to be worth; `null` if no bid could have won it.
    winning_value: Option<u64>,
    /// How much lower the last unit could have been; `null` without any unit.
    headroom: Option<u64>,
}

/// Clears the round in the file and prints the result.
///
/// # Errors
/// The file can't be read, is not JSON of the documented form, or breaks a rule; the message names the place.
pub fn clear(args: &ClearArgs) -> anyhow::Result<()> {
    let (name, text) = read(&args.file)?;
    let answer = answer(&text).with_context(|| format!("{name} cannot be cleared"))?;
    let text = if args.json { json(&answer)? } else { tables(&answer)? };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

fn read(file: &Path) -> anyhow::Result<(String, String)> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(("standard input".to_string(), text));
    }
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    Ok((name, text))
}

/// From JSON text to the answer.
fn answer(text: &str) -> anyhow::Result<Answer> {
    let round: Round = serde_json::from_str(text)?;
    let mut books = books(&round)?;
    let goods = round.goods.iter().zip(&mut books);
    let goods = goods.map(|(good, entries)| clear_good(round.round, good, entries));
    Ok(Answer { round: round.round, goods: goods.collect::<anyhow::Result<_>>()? })
}

/// The entries of each good, checked. Each error names its place in the file.
fn books(round: &Round) -> anyhow::Result<Vec<Vec<Entry>>> {
    let mut by_name = HashMap::new();
    for (at, good) in round.goods.iter().enumerate() {
        let place = format!("goods[{at}] (`{}`)", good.name);
        if let Some(first) = by_name.insert(good.name.as_str(), at) {
            bail!("{place}: goods[{first}] has the same name");
        }
        for (field, price) in [("reserve", good.reserve), ("fee", good.fee)] {
            let limit = Price::LIMIT.0;
            ensure!(price <= limit, "{place}: {field} {price} is above {limit}");
        }
    }
    let good_at = |name: &str, place: &str| {
        by_name.get(name).copied().with_context(|| format!("{place}: there is no good `{name}`"))
    };
    let mut held = HashMap::new();
    for (at, holding) in round.holdings.iter().enumerate() {
        let place = format!("holdings[{at}]");
        let good = good_at(&holding.good, &place)?;
        if held.insert((holding.account, good), holding.units).is_some() {
            bail!("{place}: account {} has another holding of `{}`", holding.account, holding.good);
        }
    }
    let mut books = vec![Vec::new(); round.goods.len()];
    let mut seen = HashMap::new();
    for (at, bid) in round.bids.iter().enumerate() {
        let place = format!("bids[{at}]");
        let good = good_at(&bid.good, &place)?;
        if let Some(first) = seen.insert((bid.account, good), at) {
            let (account, good) = (bid.account, &bid.good);
            bail!("{place}: bids[{first}] is account {account}'s bid for `{good}` already");
        }
        let held = held.get(&(bid.account, good)).copied().unwrap_or(0);
        books[good].push(entry(bid, held, &place)?);
    }
    for entries in &mut books {
        entries.sort_by_key(|entry| entry.account);
    }
    Ok(books)
}

fn entry(bid: &Bid, held: u32, place: &str) -> anyhow::Result<Entry> {
    let segments = bid
        .segments
        .iter()
        .map(|segment| Segment { value: Price(segment.value), quantity: Quantity(segment.quantity) });
    let curve = Curve::new(&segments.collect::<Vec<_>>()).with_context(|| format!("{place}: segments"))?;
    let whole = market_mechanism::Bid {
        account: AccountId(bid.account),
        curve,
        keep: Price(bid.keep),
        max_payment: Credits(bid.max_payment.unwrap_or(Credits::MAX.0)),
        valid_until: RoundNo(u64::MAX),
    };
    whole.check().with_context(|| place.to_string())?;
    Ok(Entry { account: whole.account, held: Quantity(held), keep: whole.keep, budget: whole.max_payment, curve })
}

fn clear_good(round: u64, good: &Good, entries: &mut [Entry]) -> anyhow::Result<GoodAnswer> {
    let terms = Terms { supply: Quantity(good.supply), reserve: Price(good.reserve), fee: Price(good.fee) };
    let mut steps = vec![Step::default(); steps_needed(entries.len())];
    let mut tallies = vec![Tally::default(); tallies_needed(entries.len())];
    let mut awards = vec![Award::default(); entries.len()];
    let mut scratch = Scratch { steps: &mut steps, tallies: &mut tallies };
    let number = RoundNo(round);
    let outcome = curve_lane::clear(&terms, number, entries, &mut scratch, &mut awards)
        .with_context(|| format!("`{}`", good.name))?;
    let explained = entries.iter().map(|entry| {
        let said = explain(&terms, number, entries, &awards, entry.account);
        let said = said.with_context(|| format!("account {} is not in its round", entry.account.0))?;
        Ok(AwardAnswer {
            account: entry.account.0,
            held: entry.held.0,
            units: said.quantity.0,
            payment: said.payment.0,
            reason: reason(said.reason),
            winning_value: said.winning_value.map(|price| price.0),
            headroom: said.headroom.map(|price| price.0),
        })
    });
    Ok(GoodAnswer {
        name: good.name.clone(),
        clearing: outcome.clearing.0,
        ask: outcome.ask.map(|price| price.0),
        sold: outcome.sold.0,
        unsold: outcome.unsold.0,
        welfare: outcome.welfare.0,
        awards: explained.collect::<anyhow::Result<_>>()?,
    })
}

/// The answer for programs.
fn json(answer: &Answer) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(answer)? + "\n")
}

const fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::AllServed => "all_served",
        Reason::BelowReserve => "below_reserve",
        Reason::Budget => "budget",
        Reason::NoSupply => "no_supply",
        Reason::Outbid => "outbid",
    }
}

/// The answer for people: prices in 1e-15 credit, payments in credits too.
fn tables(answer: &Answer) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let or_none = |number: Option<u64>| number.map_or("-".to_string(), |number| number.to_string());
    for good in &answer.goods {
        writeln!(out, "{} in round {}", good.name, answer.round)?;
        writeln!(
            out,
            "  clearing {}, ask {}, sold {}, unsold {} (prices in 1e-15 credit per unit and interval)",
            good.clearing,
            or_none(good.ask),
            good.sold,
            good.unsold
        )?;
        writeln!(
            out,
            "  {:>8} {:>10} {:>10} {:>22}  {:<13} {:>20}",
            "account", "held", "units", "payment in credits", "why not more", "winning value"
        )?;
        for award in &good.awards {
            writeln!(
                out,
                "  {:>8} {:>10} {:>10} {:>22}  {:<13} {:>20}",
                award.account,
                award.held,
                award.units,
                Credits(award.payment).to_string(),
                award.reason,
                or_none(award.winning_value)
            )?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: &str = r#"{
        "round": 3,
        "goods": [{"name": "page", "supply": 3, "reserve": 1}, {"name": "cpu.1", "supply": 0, "reserve": 5, "fee": 2}],
        "holdings": [{"account": 7, "good": "page", "units": 1}],
        "bids": [
            {"account": 9, "good": "page", "segments": [{"quantity": 1, "value": 9}, {"quantity": 1, "value": 5}]},
            {"account": 7, "good": "page", "segments": [{"quantity": 1, "value": 10}, {"quantity": 2, "value": 8}],
             "keep": 2, "max_payment": 1000}
        ]
    }"#;

    /// `ROUND` with one place changed.
    fn refusal(from: &str, to: &str) -> String {
        assert!(ROUND.contains(from));
        format!("{:#}", answer(&ROUND.replacen(from, to, 1)).unwrap_err())
    }

    #[test]
    fn a_round_is_cleared_by_the_curve_lane() {
        let answer = answer(ROUND).unwrap();
        let page = &answer.goods[0];
        assert_eq!((page.clearing, page.ask, page.sold, page.unsold), (8, Some(8), 3, 0));
        let rows: Vec<_> = page
            .awards
            .iter()
            .map(|award| (award.account, award.held, award.units, award.payment, award.reason))
            .collect();
        // Account 7 displaces 9's second unit (5) and one at the reserve; 9 displaces 7's third (8).
        assert_eq!(rows, [(7, 1, 2, 6, "outbid"), (9, 0, 1, 8, "outbid")]);
        // In round 3 account 9's turn comes before account 7's, so it would win the tie with 7's second unit.
        assert_eq!(page.awards[1].winning_value, Some(8));
        let nothing = &answer.goods[1];
        assert_eq!((nothing.ask, nothing.clearing, nothing.awards.len()), (None, 5, 0));
    }

    #[test]
    fn the_order_of_bids_in_the_file_does_not_matter() {
        let mut round: serde_json::Value = serde_json::from_str(ROUND).unwrap();
        let before = answer(&round.to_string()).unwrap();
        round["bids"].as_array_mut().unwrap().reverse();
        assert_eq!(answer(&round.to_string()).unwrap(), before);
    }

    #[test]
    fn amounts_beyond_64_bits_are_exact() {
        let limit = Price::LIMIT.0;
        let text = format!(
            r#"{{"goods": [{{"name": "page", "supply": 4000000000, "reserve": {limit}}}],
                "bids": [{{"account": 1, "good": "page", "max_payment": {},
                           "segments": [{{"quantity": 4000000000, "value": {limit}}}]}}]}}"#,
            i128::from(limit) * 4_000_000_000
        );
        let answer = answer(&text).unwrap();
        assert_eq!(answer.goods[0].awards[0].payment, i128::from(limit) * 4_000_000_000);
        let json = serde_json::to_string(&answer).unwrap();
        assert!(json.contains("18446744073709551616000000000"), "{json}");
    }

    #[test]
    fn every_refusal_names_its_place() {
        for (from, to, expected) in [
            ("\"cpu.1\"", "\"page\"", "goods[1] (`page`): goods[0] has the same name"),
            ("\"fee\": 2", "\"fee\": 5000000000000000000", "goods[1] (`cpu.1`): fee"),
            (
                "\"account\": 7, \"good\": \"page\"",
                "\"account\": 7, \"good\": \"x\"",
                "holdings[0]: there is no good `x`",
            ),
            ("\"account\": 9, \"good\": \"page\"", "\"account\": 9, \"good\": \"x\"", "bids[0]: there is no good `x`"),
            ("\"account\": 9", "\"account\": 7", "bids[1]: bids[0] is account 7's bid for `page` already"),
            ("\"value\": 5", "\"value\": 9", "bids[0]: segments: segment 1: value is not below"),
            ("\"quantity\": 2", "\"quantity\": 0", "bids[1]: segments: segment 1: quantity is 0"),
            ("\"keep\": 2", "\"keep\": 5000000000000000000", "bids[1]: keep is above"),
            ("\"max_payment\": 1000", "\"max_payment\": -1", "bids[1]: max_payment is below 0"),
            ("\"keep\": 2", "\"keeps\": 2", "unknown field `keeps`"),
            ("\"supply\": 3", "\"supply\": -3", "line 3"),
            ("\"reserve\": 1}", "\"reserve\": 1.5}", "line 3"),
        ] {
            let said = refusal(from, to);
            assert!(said.contains(expected), "{said}");
        }
        let twice = r#""holdings": [{"account": 7, "good": "page", "units": 1}, "#;
        let said = refusal("\"holdings\": [", twice);
        assert!(said.contains("holdings[1]: account 7 has another holding"), "{said}");
    }

    /// Each example stands beside the answer to it.
    #[test]
    fn the_examples_in_the_documentation_have_the_answers_beside_them() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/market/mechanism/examples");
        for name in ["pages", "two-goods"] {
            let (_, text) = read(&folder.join(name).with_extension("json")).unwrap();
            let (_, expected) = read(&folder.join(name).with_extension("answer.json")).unwrap();
            let answer = answer(&text).unwrap();
            assert_eq!(json(&answer).unwrap(), expected, "{name}");
            let tables = tables(&answer).unwrap();
            assert!(answer.goods.iter().all(|good| tables.contains(&good.name)), "{tables}");
        }
    }

    /// Every key of a JSON text.
    fn keys(text: &str) -> Vec<String> {
        fn add(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| {
                    found.push(key.clone());
                    add(value, found);
                }),
                serde_json::Value::Array(list) => list.iter().for_each(|value| add(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        add(&serde_json::from_str(text).unwrap(), &mut found);
        found
    }

    #[test]
    fn every_key_is_documented() {
        let text = include_str!("../../servers/market/mechanism/README.md");
        let section = |title: &str| text.split(title).nth(1).unwrap().split("\n###").next().unwrap();
        let answer = json(&answer(ROUND).unwrap()).unwrap();
        for (section, json) in [(section("### Input"), ROUND), (section("### Output"), &answer)] {
            for key in keys(json) {
                // As `name`, `goods[].name` or `goods[]`.
                let written = [format!("`{key}`"), format!(".{key}`"), format!("{key}[]")];
                assert!(written.iter().any(|name| section.contains(name)), "{key}: {section}");
            }
        }
    }
}
