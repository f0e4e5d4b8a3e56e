//! Use cases of breakers: operators list, open and close those of the process that answers.

pub mod outage;
mod outside_hosts;

use std::sync::Arc;

use patchbay_api::breakers::{BreakerOrder, BreakerView, BreakersClose, BreakersOpen};
use patchbay_model::PluginName;
use serde_json::json;

pub use self::outside_hosts::{OutsideHosts, STATES};
use crate::actions::{Actions, Caller};
use crate::{Error, Parts};

/// Longest reason of an operator, in characters.
const MAX_REASON: usize = 500;

#[derive(Clone)]
pub struct Breakers {
    outside: Arc<OutsideHosts>,
    actions: Actions,
}

impl Breakers {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self {
            outside: Arc::clone(&parts.outside),
            actions: parts.actions.clone(),
        }
    }

    /// Lists every outside host that an active plugin names.
    pub fn list(&self) -> Vec<BreakerView> {
        self.outside.list()
    }

    /// Refuses all calls until the breaker is closed. One that an operator has opened stays as it is,
    /// with who opened it and why.
    pub async fn open(&self, who: &Caller, order: &BreakerOrder) -> Result<BreakerView, Error> {
        let (plugin, reason) = checked(order)?;
        let act = async {
            let breaker = self.outside.find(&plugin, &order.host)?;
            let already = self.view(&plugin, breaker.host())?.opened_by.is_some();
            if !already {
                breaker.hold(&who.actor, reason);
            }
            let view = self.view(&plugin, breaker.host())?;
            Ok(BreakerView { already, ..view })
        };
        let (target, details) = (
            self.target(&plugin, &order.host),
            json!({ "reason": reason }),
        );
        self.actions
            .record::<BreakersOpen, _>(who, &target, details, act)
            .await
    }

    /// Lets calls through again, whoever opened the breaker.
    pub async fn close(&self, who: &Caller, order: &BreakerOrder) -> Result<BreakerView, Error> {
        let (plugin, reason) = checked(order)?;
        let act = async {
            let breaker = self.outside.find(&plugin, &order.host)?;
            let already = self.view(&plugin, breaker.host())?.is_closed();
            if !already {
                breaker.close(&who.actor, reason);
            }
            let view = self.view(&plugin, breaker.host())?;
            Ok(BreakerView { already, ..view })
        };
        let (target, details) = (
            self.target(&plugin, &order.host),
            json!({ "reason": reason }),
        );
        self.actions
            .record::<BreakersClose, _>(who, &target, details, act)
            .await
    }

    /// What is recorded: the host's whole name, or what was given if it names none.
    fn target(&self, plugin: &PluginName, host: &str) -> String {
        let found = self.outside.find(plugin, host);
        let host = found.map_or_else(|_| host.to_owned(), |breaker| breaker.host().to_owned());
        format!("{plugin} {host}")
    }

    fn view(&self, plugin: &PluginName, host: &str) -> Result<BreakerView, Error> {
        let view = self
            .outside
            .of(plugin)
            .into_iter()
            .find(|view| view.host == host);
        view.ok_or_else(Error::internal)
    }
}

fn checked(order: &BreakerOrder) -> Result<(PluginName, &str), Error> {
    let plugin: PluginName = order.plugin.parse()?;
    let reason = order.reason.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON {
        return Err(Error::invalid(format!(
            "reason: is required, with at most {MAX_REASON} characters"
        )));
    }
    Ok((plugin, reason))
}
