//! Everything that an application can ask of the market, in one run, compared with what the run left.
//!
//! `asking` (`tests/guests`) asks and prints; the rounds' records, from which `result.json` is made, are the judge.

use e2e::xtask::report::json;
use e2e::{Change, Finished, Rivalry, run};
use market_mechanism::Credits;
use proto::host::Record;
use serde_json::Value;
use std::collections::BTreeMap;

const SCENARIO: Rivalry = Rivalry {
    name: "asking",
    image: "asking",
    more: "income = 0.5",
    pages: 16,
    pricing: "reserve = 0.005\nbase_price = 0.005",
    waits_for_rival: false,
};

/// A purchase at the desk is usable after so many microseconds at most: messages there and back, the market's turn between
/// them, and the first touch. It takes about half of it.
const DESK_US: u64 = 40;

/// A round of pages, by the market's record.
struct Round {
    ask: u64,
    clearing: u64,
    mine: u64,
    paid: i128,
}

fn rounds(run: &Finished) -> BTreeMap<u64, Round> {
    let round = |record: &Record| match record {
        Record::Round { good: 0, round, ask, clearing, holdings, paid, .. } => {
            Some((*round, Round { ask: *ask, clearing: *clearing, mine: holdings[0].into(), paid: *paid }))
        }
        _ => None,
    };
    run.records.iter().filter_map(round).collect()
}

/// The words after this beginning of a line, of every line that has it.
fn all<'a>(run: &'a Finished, start: &str) -> Vec<Vec<&'a str>> {
    let lines = &run.app("asking").lines;
    lines.iter().filter_map(|line| line.strip_prefix(start)).map(|rest| rest.split_whitespace().collect()).collect()
}

fn one<'a>(run: &'a Finished, start: &str) -> Vec<&'a str> {
    let mut found = all(run, start);
    assert_eq!(found.len(), 1, "`{start}` in {:?}; {:?}", run.app("asking").lines, run.failure);
    found.remove(0)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no number"))
}

#[test]
fn what_an_application_asks_is_what_the_run_records() {
    // The rival comes before the middle of an interval: then there is a warning before the notice.
    let run = run(&SCENARIO.scenario(), &Change::none().event("1210ms=start:rival").event("300ms=topup:asking:0.25"));
    run.expect_good();
    let rounds = rounds(&run);
    let asked: u64 = 1_000; // 1e-12 credit
    let reserve = rounds[&0].ask;
    assert!((1..asked).contains(&reserve), "the reserve is {reserve}");

    // `max_price` and `explain`: nothing is sold at 1, and what would have won is the reserve.
    let [round, holding] = one(&run, "max_price ")[..] else { panic!() };
    assert_eq!((number(holding), rounds[&number(round)].mine), (0, 0));
    let [of, wanted, won, reason, would] = one(&run, "too low ")[..] else { panic!() };
    assert!(number(of) >= number(round));
    assert_eq!((wanted, won, reason, number(would)), ("8", "0", "BelowReserve", reserve));

    // `budget`: as many units as their summed values fit.
    let [round, holding, payment] = one(&run, "budget ")[..] else { panic!() };
    let record = &rounds[&number(round)];
    assert_eq!((number(holding), record.mine, record.paid), (3, 3, number(payment).into()));
    assert_eq!(one(&run, "short of money "), [round, "8", "3", "Budget"]);

    // `last_round`: in the round after that the units are lost.
    let last = number(one(&run, "last round ")[0]);
    assert_eq!((rounds[&last].mine, rounds[&(last + 1)].mine), (8, 0));
    assert_eq!(one(&run, "ended by itself "), [&format!("{}", last + 1)[..], "8"]);

    // Without limits: the bid, what it costs, the estimate, the board.
    let [round, holding, payment] = one(&run, "all ")[..] else { panic!() };
    let record = &rounds[&number(round)];
    assert_eq!((number(holding), record.mine, record.paid), (8, 8, number(payment).into()));
    assert_eq!(number(payment), 8 * reserve, "nobody else bids");
    let [of, cost] = one(&run, "estimate ")[..] else { panic!() };
    assert_eq!((of, cost), (round, payment));
    let [of, ask, clearing] = one(&run, "ask ")[..] else { panic!() };
    let record = &rounds[&number(of)];
    assert_eq!((number(ask), number(clearing)), (record.ask, record.clearing));

    // `lease` and `release`.
    let [_, pages, _] = one(&run, "lease ")[..] else { panic!() };
    assert_eq!(pages, "10");
    let usable = number(one(&run, "usable after ")[0]);
    assert!(usable <= DESK_US, "bought at the desk, mapped and written to after {usable} us");
    assert_eq!(one(&run, "release "), ["2", "8", "pages"]);

    // The warning, the notice, and why.
    let warned = number(one(&run, "at risk ")[0]);
    let [round, units, _, left, _] = one(&run, "notice ")[..] else { panic!() };
    assert_eq!(number(units), warned, "what was at risk is what was lost");
    // A round closes 5 ms before its interval begins.
    assert!((100_000..=105_000).contains(&number(left)), "{left} us of an interval of 100 ms");
    let record = &rounds[&number(round)];
    assert_eq!(record.mine, 8 - warned);
    let [of, won, reason, would] = one(&run, "lost ")[..] else { panic!() };
    assert_eq!((of, number(won), reason), (round, record.mine, "Outbid"));
    assert!(number(would) > asked, "{would} would have won, {asked} was bid");
    assert_eq!(number(one(&run, "give up ")[0].trim_end_matches(',')), warned);

    // `history`: each round that it took part in.
    let history = all(&run, "history ");
    assert!(history.len() > 5, "{history:?}");
    for line in &history {
        let [round, holding, payment, clearing, ask] = line[..] else { panic!("{line:?}") };
        let record = &rounds[&number(round)];
        assert_eq!(number(holding), record.mine, "round {round}");
        assert_eq!((number(clearing), number(ask)), (record.clearing, record.ask), "round {round}");
        if record.mine == 8 || record.mine == 3 {
            assert_eq!(i128::from(number(payment)), record.paid, "round {round}: nobody else paid");
        }
    }
    statement(&run, &rounds);
}

/// The statement names every movement: what the rounds recorded, the base, the desk, the income and the top-ups.
fn statement(run: &Finished, rounds: &BTreeMap<u64, Round>) {
    let [balance, escrow, paid, adds_up] = one(run, "statement ")[..] else { panic!() };
    assert_eq!(adds_up, "true");
    let credits = |text: &str| text.parse::<Credits>().unwrap_or_else(|_| panic!("`{text}` is no amount"));
    assert!(credits(paid) <= run.app("asking").paid, "it went on paying until its end");
    let csv = String::from_utf8(run.file("asking", "statement.csv").to_vec()).expect("text");
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = rows.next().expect("a header");
    let column = |name: &str| header.iter().position(|column| *column == name).unwrap_or_else(|| panic!("no {name}"));
    let [what, good, start, quantity, cost] =
        ["ChargeDescription", "ResourceType", "ChargePeriodStart", "ConsumedQuantity", "BilledCost"].map(column);
    let rows: Vec<Vec<&str>> = rows.collect();
    let sum: Credits = rows.iter().map(|row| credits(row[cost])).sum();
    assert_eq!(Credits::ZERO - sum, credits(balance) + credits(escrow), "the sum of all lines is what it has");
    let of = |wanted: &str| rows.iter().filter(|row| row[what] == wanted).collect::<Vec<_>>();
    assert!(of("carried forward").is_empty(), "this run is short enough to be remembered whole");
    assert_eq!(of("top-up").iter().map(|row| row[cost]).collect::<Vec<_>>(), ["-1", "-0.25"]);
    assert!(of("income").len() > 5);
    assert!(of("base").iter().any(|row| row[good] == "page") && of("base").iter().any(|row| row[good] == "cpu.0"));
    let desk = of("desk");
    assert_eq!(desk.iter().map(|row| row[quantity]).collect::<Vec<_>>(), ["2"]);
    // The line of round k is about interval k + 1, and intervals of pages are 0.1 s.
    let bought = of("round");
    assert!(bought.len() > 5, "{csv}");
    for row in bought {
        let tenths = row[start].replace('.', "").parse::<u64>().expect("microseconds") / 100_000;
        let record = &rounds[&(tenths - 1)];
        assert_eq!(number(row[quantity]), record.mine);
        if record.mine == 8 || record.mine == 3 {
            assert_eq!(credits(row[cost]), Credits(record.paid));
        }
    }
    let charges: Credits =
        rows.iter().filter(|row| ["base", "round", "desk"].contains(&row[what])).map(|row| credits(row[cost])).sum();
    assert_eq!(charges, credits(paid));

    // The other form says the same, and result.json the same of the rounds.
    let object: Value = serde_json::from_slice(run.file("asking", "statement.json")).expect("JSON");
    assert_eq!(object["Charges"].as_array().expect("lines").len(), rows.len());
    let result = json::result(&run.state, "ask", 1, 0.0, None);
    let goods = result["goods"].as_array().expect("goods");
    let page = goods.iter().find(|good| good["name"] == "page").expect("pages")["rounds"].as_array().expect("rounds");
    let in_result: Vec<u64> = page.iter().map(|round| round["holdings"]["asking"].as_u64().unwrap_or(0)).collect();
    assert_eq!(in_result, rounds.values().map(|round| round.mine).collect::<Vec<_>>());
}
