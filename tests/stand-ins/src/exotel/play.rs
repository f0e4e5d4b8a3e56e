//! How calls and messages go on, and who is told.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;

use super::callback;
use super::state::{Call, Message, Shared, State};

impl Shared {
    pub(super) fn answer_call(self: &Arc<Self>, sid: &str) -> bool {
        let mut state = self.lock();
        let reverses = state.behaviour.reverses;
        let Some(call) = open_call(&mut state, sid) else {
            return false;
        };
        call.status = "in-progress".into();
        call.answered = Some(Utc::now());
        let call = call.clone();
        drop(state);
        if !reverses {
            self.send(callback::of_call(self, &call, "answered"));
        }
        true
    }

    pub(super) fn end_call(self: &Arc<Self>, sid: &str, status: &str) -> bool {
        let mut state = self.lock();
        let (reverses, conversation_s) = (state.behaviour.reverses, state.behaviour.conversation_s);
        let Some(call) = open_call(&mut state, sid) else {
            return false;
        };
        call.status = status.to_owned();
        call.ended = Some(Utc::now());
        if call.answered.is_some() {
            call.conversation_s = conversation_s;
        }
        let call = call.clone();
        drop(state);
        let mut events = vec![callback::of_call(self, &call, "terminal")];
        if reverses && call.answered.is_some() {
            events.push(callback::of_call(self, &call, "answered"));
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            // One after the other, so that the order is the one that was asked for.
            for event in events {
                callback::deliver(&shared, event).await;
            }
        });
        true
    }

    pub(super) fn repeat_callbacks(self: &Arc<Self>, sid: &str) -> bool {
        let state = self.lock();
        let Some(call) = state.calls.iter().find(|call| call.sid == sid).cloned() else {
            return false;
        };
        drop(state);
        if call.answered.is_some() {
            self.send(callback::of_call(self, &call, "answered"));
        }
        if call.ended.is_some() {
            self.send(callback::of_call(self, &call, "terminal"));
        }
        true
    }

    fn send(self: &Arc<Self>, event: Option<callback::Event>) {
        let shared = Arc::clone(self);
        tokio::spawn(async move { callback::deliver(&shared, event).await });
    }

    /// Adds a call, which goes on by itself if the server plays.
    pub(super) fn add_call(self: &Arc<Self>, call: Call) {
        let sid = call.sid.clone();
        let mut state = self.lock();
        state.calls.push(call);
        let behaviour = state.behaviour.clone();
        drop(state);
        if !behaviour.plays {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(behaviour.answer_after_ms)).await;
            if behaviour.outcome == "completed" {
                shared.answer_call(&sid);
                tokio::time::sleep(Duration::from_millis(behaviour.end_after_ms)).await;
            }
            shared.end_call(&sid, &behaviour.outcome);
        });
    }

    fn deliver_message(&self, sid: &str) -> Option<Message> {
        let mut state = self.lock();
        let message = state.messages.iter_mut().find(|one| one.sid == sid)?;
        message.status = "sent".into();
        message.detailed = Some((20005, "DELIVERED_TO_HANDSET".into()));
        Some(message.clone())
    }

    pub(super) fn add_message(self: &Arc<Self>, message: Message) {
        let sid = message.sid.clone();
        let mut state = self.lock();
        state.messages.push(message);
        let behaviour = state.behaviour.clone();
        drop(state);
        if !behaviour.plays {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(behaviour.answer_after_ms)).await;
            let Some(message) = shared.deliver_message(&sid) else {
                return;
            };
            let event = callback::of_message(&shared, &message);
            callback::deliver(&shared, event).await;
        });
    }
}

fn open_call<'a>(state: &'a mut State, sid: &str) -> Option<&'a mut Call> {
    let call = state.calls.iter_mut().find(|call| call.sid == sid)?;
    call.ended.is_none().then_some(call)
}
