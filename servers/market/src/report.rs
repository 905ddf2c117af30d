//! What the market tells the console and the host.

use crate::machine::Machine;
use crate::root::{STATS_PAGE, TENANT_STRIDE, TENANT_WINDOW};
use crate::server::{Server, account};
use alloc::string::{String, ToString};
use cap_spec::abi::stats_page;
use market_mechanism::Credits;
use proto::console::ToConsole;
use proto::host::Record;

/// Longest text that is sent as one message.
const MAX_TEXT: usize = 1024;

impl<M: Machine> Server<'_, M> {
    /// Sends a record to the host.
    pub(crate) fn record(&mut self, record: Record) {
        self.console.record(record);
    }

    /// Prints a line.
    pub(crate) fn say(&mut self, text: &str) {
        let mut line: String = text.chars().take(MAX_TEXT).collect();
        line.push('\n');
        self.console.send(&ToConsole::Text(line));
    }

    /// Microseconds of the run.
    pub(crate) fn micros(&self) -> u64 {
        self.clock.micros(self.root.machine.now())
    }

    /// What an account has paid, as far as it did not get it back.
    pub(crate) fn paid(&self, app: usize) -> i128 {
        self.ledger.balance(account(app)).map_or(0, |balance| (balance.charged - balance.returned).0)
    }

    /// Free balance and escrow of an application.
    pub(crate) fn money(&self, app: usize) -> (Credits, Credits) {
        self.ledger
            .balance(account(app))
            .map_or((Credits::ZERO, Credits::ZERO), |balance| (balance.free, balance.escrow))
    }

    /// Reports the accounts that changed since the last time.
    pub(crate) fn report_accounts(&mut self) {
        let t = self.micros();
        for app in 0..self.tenants.len() {
            let ((balance, escrow), paid) = (self.money(app), self.paid(app));
            let now = Some((balance.0, escrow.0, paid));
            if self.tenants[app].reported != now {
                self.tenants[app].reported = now;
                let app = app as u16;
                self.record(Record::Account { t, app, balance: balance.0, escrow: escrow.0, paid });
            }
        }
    }

    /// Reports the CPU time that each application has really had.
    pub(crate) fn report_use(&mut self) {
        let t = self.micros();
        for app in 0..self.tenants.len() {
            if self.tenants[app].is_running() {
                let ticks = self.stats_word(app, stats_page::USED_TICKS);
                self.record(Record::Used { t, app: app as u16, ticks });
            }
        }
    }

    /// A word of the statistics page of a running application's VM.
    pub(crate) fn stats_word(&self, app: usize, offset: usize) -> u64 {
        let page = TENANT_WINDOW + app as u64 * TENANT_STRIDE + STATS_PAGE;
        self.root.machine.read_word(page + offset as u64)
    }

    /// Moves queued messages into the rings and leases into the channels. True if something is left that has to be tried
    /// again.
    pub(crate) fn flush(&mut self) -> bool {
        let mut left = self.console.flush(&mut self.root.machine) | self.flush_nic() | self.flush_storage();
        for app in 0..self.tenants.len() {
            left |= self.flush_tenant(app);
        }
        left
    }

    /// The name of an application.
    pub(crate) fn name(&self, app: usize) -> String {
        self.plan().apps.get(app).map_or_else(String::new, |app| app.name.to_string())
    }
}
