//! What each layer is given of several sections.

use patchbay_app::AppConfig;
use patchbay_http::HttpConfig;
use patchbay_work::{WorkConfig, WorkerDefaults};

use super::Config;

impl Config {
    /// For the work. `host` names this process; `has_key`: whether data and results can be sealed.
    pub fn of_work(&self, host: String, has_key: bool) -> WorkConfig {
        WorkConfig {
            workers: WorkerDefaults {
                lock: *self.work.lock,
                renew: *self.work.renew,
                max_stalls: *self.work.max_stalls,
                max_jobs: *self.work.max_jobs,
                drain_limit: *self.work.drain_limit,
                host,
            },
            quarantine: self.quarantine.rule(),
            recording: self.history.recording(has_key),
            mail_from: self.mail.sender(),
            default_platform: self.general.default_platform.as_str().into(),
            keep_retired: *self.metrics.keep_retired,
        }
    }

    /// For use cases and background services.
    pub fn of_app(&self) -> AppConfig {
        AppConfig {
            environment: self.general.environment.as_str().into(),
            alerts: self.alerts.alerting(&self.general, &self.mail),
            quarantine: self.quarantine.policy(),
            trusted: self.plugins.trusted(),
            keep_revisions: self.plugins.keep(),
            keep_attempts: self.history.keep(),
            mirror_every: self.history.mirror_every(),
            node_may_be_bullmq_5: self.redis.node_may_be_bullmq_5(),
            audit: self.audit.sealing(),
            people: self.people.people(),
            operators: self.operators.operators(&self.admin, &self.people),
            oidc: self.oidc.sso(&self.http),
            kept_answers: self.routes.kept(),
        }
    }

    /// For HTTP.
    pub fn of_http(&self) -> HttpConfig {
        HttpConfig {
            limits: self.http.limits(),
            anonymous_per_minute: Some(*self.http.anonymous_per_minute).filter(|count| *count > 0),
            cors_origins: self.http.cors_origins.clone(),
            is_https: self.http.is_https(),
            operator: self.admin.operator(),
            own_key: None,
            metrics_need_operator: *self.metrics.require_operator,
            default_platform: self.general.default_platform.as_str().into(),
            max_component_bytes: *self.runtime.max_component,
            cookies: self.people.cookies(),
            platforms: self.general.platforms.as_slice().into(),
        }
    }
}
