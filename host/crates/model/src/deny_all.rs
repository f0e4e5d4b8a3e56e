//! A host without an outside: for self-tests, and for benchmarks that measure the sandbox alone.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use crate::PluginName;
use crate::audit::{AuditTrails, NewAuditEntry};
use crate::capability::{
    Capabilities, CapabilityError, Envelope, HashKind, HttpError, HttpRequest, HttpResponse, LogLevel, SmtpFailure,
    SmtpReceipt,
};
use crate::flow::{ChildResult, Flow};
use crate::job::NewJob;
use crate::sql::{PluginDatabase, SqlAnswer, SqlError, SqlJobs, SqlStatement, SqlTransaction};

/// Answers `denied` to everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

const DENIED: &str = "no outside capability is available here";

#[async_trait]
impl Capabilities for DenyAll {
    fn log(&self, _: LogLevel, _: &str, _: &[(String, String)]) {}
    fn report_progress(&self, _: String) {}
    fn setting(&self, _: &str) -> Option<String> {
        None
    }
    fn settings(&self) -> String {
        "{}".into()
    }
    fn secret_is_configured(&self, _: &str) -> bool {
        false
    }
    fn verify_hmac(&self, _: &str, _: HashKind, _: &[u8], _: &[u8]) -> Result<bool, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    fn sign_hmac(&self, _: &str, _: HashKind, _: &[u8]) -> Result<Vec<u8>, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    fn secret_matches(&self, _: &str, _: &[u8]) -> Result<bool, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn http(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Denied(DENIED.into()))
    }
    async fn kv_get(&self, _: &str) -> Result<Option<Vec<u8>>, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn kv_set(&self, _: &str, _: Vec<u8>, _: Option<u64>) -> Result<(), CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn kv_set_if_absent(&self, _: &str, _: Vec<u8>, _: Option<u64>) -> Result<bool, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn kv_delete(&self, _: &str) -> Result<bool, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn kv_increment(&self, _: &str, _: i64, _: Option<u64>) -> Result<i64, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn enqueue(&self, _: Vec<NewJob>) -> Result<Vec<String>, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn enqueue_flow(&self, _: Flow) -> Result<Vec<String>, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn children(&self) -> Result<Vec<ChildResult>, CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn sql_run(&self, _: Vec<SqlStatement>, _: Vec<NewJob>) -> Result<Vec<SqlAnswer>, SqlError> {
        Err(SqlError::denied(DENIED))
    }
    async fn sql_begin(&self) -> Result<Arc<dyn SqlTransaction>, SqlError> {
        Err(SqlError::denied(DENIED))
    }
    async fn sql_enqueue(&self, _: Arc<dyn SqlTransaction>, _: Vec<NewJob>) -> Result<(), SqlError> {
        Err(SqlError::denied(DENIED))
    }
    async fn append_audit(&self, _: &str, _: String, _: String) -> Result<(), CapabilityError> {
        Err(CapabilityError::denied(DENIED))
    }
    async fn send_mail(&self, _: Envelope, _: Vec<u8>) -> Result<SmtpReceipt, SmtpFailure> {
        Err(SmtpFailure {
            phase: "denied",
            reply_code: None,
            enhanced_code: None,
            text: DENIED.into(),
            ambiguous: false,
            refused: Vec::new(),
        })
    }
}

#[async_trait]
impl PluginDatabase for DenyAll {
    async fn run(
        &self,
        _: &PluginName,
        _: Instant,
        _: Vec<SqlStatement>,
        _: Option<SqlJobs>,
    ) -> Result<Vec<SqlAnswer>, SqlError> {
        Err(SqlError::denied("no database is available here"))
    }
    async fn begin(&self, _: &PluginName, _: Instant) -> Result<Arc<dyn SqlTransaction>, SqlError> {
        Err(SqlError::denied("no database is available here"))
    }
}

#[async_trait]
impl AuditTrails for DenyAll {
    async fn append(&self, _: NewAuditEntry, _: Instant) -> Result<(), CapabilityError> {
        Err(CapabilityError::denied("this host has no audit trails"))
    }
}
