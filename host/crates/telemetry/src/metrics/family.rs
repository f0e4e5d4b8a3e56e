//! Writes one metric family of the page: its name, help and series.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::histogram::Reading;

pub type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Names and help of one family. A family without series is left out.
pub struct Family<'e, 'd> {
    encoder: &'e mut DescriptorEncoder<'d>,
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
}

impl Family<'_, '_> {
    pub fn counters<'a, V: EncodeCounterValue>(
        self,
        series: impl IntoIterator<Item = (Labels<'a>, V)>,
    ) -> fmt::Result {
        self.write(MetricType::Counter, series, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, V, f64>(&value, None)
        })
    }

    pub fn gauges<'a, V: EncodeGaugeValue>(
        self,
        series: impl IntoIterator<Item = (Labels<'a>, V)>,
    ) -> fmt::Result {
        self.write(MetricType::Gauge, series, |mut encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    pub fn gauge<V: EncodeGaugeValue>(self, value: Option<V>) -> fmt::Result {
        self.gauges(value.map(|value| (Labels::new(), value)))
    }

    pub fn histograms<'a>(
        self,
        series: impl IntoIterator<Item = (Labels<'a>, Reading)>,
    ) -> fmt::Result {
        self.write(
            MetricType::Histogram,
            series,
            |mut encoder,
             Reading {
                 sum,
                 count,
                 buckets,
             }| { encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None) },
        )
    }

    fn write<'a, V>(
        self,
        kind: MetricType,
        series: impl IntoIterator<Item = (Labels<'a>, V)>,
        encode: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let Self {
            encoder,
            name,
            help,
            unit,
        } = self;
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in series {
            encode(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

pub fn family<'e, 'd>(
    encoder: &'e mut DescriptorEncoder<'d>,
    name: &'static str,
    help: &'static str,
    unit: impl Into<Option<Unit>>,
) -> Family<'e, 'd> {
    Family {
        encoder,
        name,
        help,
        unit: unit.into(),
    }
}
