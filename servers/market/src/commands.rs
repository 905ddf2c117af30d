//! What the plan's events and the host order.

use crate::archive::command_app;
use crate::machine::Machine;
use crate::server::{Phase, Server, account};
use crate::tenant::{Shock, State};
use alloc::format;
use market_mechanism::Credits;
use proto::host::{Command, End};
use proto::market::{FromMarket, Movement};

/// Shocks of one application that can last at the same time.
const MAX_SHOCKS: usize = 16;

impl<M: Machine> Server<'_, M> {
    /// Does the plan's events that are due, and ends the shocks that are over.
    pub(crate) fn do_events(&mut self) {
        let now = self.root.machine.now();
        for app in 0..self.tenants.len() {
            let shocks = &mut self.tenants[app].shocks;
            let before = shocks.len();
            shocks.retain(|shock| shock.until > now);
            if shocks.len() != before {
                self.tell_valuation(app);
            }
        }
        while let Some(due) = self.events.get(self.next_event).filter(|due| due.at <= now).cloned() {
            self.next_event += 1;
            self.obey(&due.command);
        }
    }

    /// Obeys one command. One about an application that does not exist is ignored, with a line.
    pub(crate) fn obey(&mut self, command: &Command) {
        if self.phase != Phase::Running {
            return;
        }
        let app = command_app(command).map_or(0, usize::from);
        if command_app(command).is_some() && app >= self.tenants.len() {
            self.say(&format!("there is no application {app}"));
            return;
        }
        match *command {
            Command::Valuation { ppm, .. } => {
                self.tenants[app].ppm = ppm;
                self.tell_valuation(app);
            }
            Command::Shock { ppm, for_ms, .. } => {
                let until = self.root.machine.now().saturating_add(self.clock.ticks(for_ms));
                if self.tenants[app].shocks.len() < MAX_SHOCKS {
                    self.tenants[app].shocks.push(Shock { ppm, until });
                    self.tell_valuation(app);
                }
            }
            Command::Start { .. } => self.order_start(app),
            Command::Kill { .. } => match self.tenants[app].state {
                State::Running(_) | State::Starting | State::Waiting => self.end_tenant(app, End::Killed),
                State::Ended(_) => {}
            },
            Command::TopUp { amount, .. } => {
                match self.ledger.top_up(account(app), Credits(amount)) {
                    Ok(()) => {
                        self.paid_in += Credits(amount);
                        self.write_payment(app, Movement::TopUp, Credits(amount));
                    }
                    Err(error) => self.say(&format!("top-up of application {app}: {error}")),
                }
                self.drain_journal();
            }
            Command::RevokeStorage { .. } => self.order_revocation(app),
            Command::Stop => self.end_run(Some(crate::finish::STOPPED)),
            Command::Crash => panic!("the market was ordered to crash"),
            Command::CrashNic => match self.nic.as_mut() {
                Some(nic) => nic.crash(),
                None => self.say("there is no network server"),
            },
            Command::CrashStorage | Command::FailStorage => match self.storage.as_mut() {
                Some(storage) => storage.crash(*command == Command::FailStorage),
                None => self.say("there is no storage server"),
            },
        }
    }

    fn tell_valuation(&mut self, app: usize) {
        let ppm = self.tenants[app].valuation_ppm();
        self.post(app, &FromMarket::Valuation { ppm });
    }
}
