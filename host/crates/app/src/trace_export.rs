//! The exporter of traces as a service.

use std::sync::Arc;

use async_trait::async_trait;
use patchbay_telemetry::traces::Exporter;
use tokio_util::sync::CancellationToken;

use crate::service::Service;

/// To be listed first: whatever ends may still open spans.
pub fn service(exporter: Exporter) -> Arc<dyn Service> {
    Arc::new(TraceExport(exporter))
}

struct TraceExport(Exporter);

#[async_trait]
impl Service for TraceExport {
    fn name(&self) -> &'static str {
        "trace-exporter"
    }

    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        self.0.run(stop).await;
        Ok(())
    }

    async fn finish(&self) -> anyhow::Result<()> {
        self.0.end().await;
        Ok(())
    }
}
