//! Lanes that learn, as this process knows them.

use prometheus::{Gauge, GaugeVec, IntGaugeVec, Opts, Registry};
use promptmill_ports::LaneReport;

use super::{gauges_by, registered};

pub(super) struct LaneGauges {
    allowed: GaugeVec,
    used: GaugeVec,
    window: IntGaugeVec,
    begun: IntGaugeVec,
    refused: IntGaugeVec,
    waiting: IntGaugeVec,
    stands_still: GaugeVec,
    open: IntGaugeVec,
}

fn decimals(at: &Registry, name: &str, help: &str) -> GaugeVec {
    registered(at, GaugeVec::new(Opts::new(name, help), &["lane"]))
}

impl LaneGauges {
    pub(super) fn new(at: &Registry) -> Self {
        let whole = |name: &str, help: &str| gauges_by(at, name, help, "lane");
        Self {
            allowed: decimals(
                at,
                "promptmill_lane_allowed_per_second",
                "Calls of a lane that may begin a second, in the whole fleet; absent where no limit is known.",
            ),
            used: decimals(
                at,
                "promptmill_lane_used_per_second",
                "Calls of a lane that were taken a second, over the last seconds, in the whole fleet.",
            ),
            window: whole(
                "promptmill_lane_window",
                "Calls of a lane that may run at the same time, in the whole fleet; absent where no limit is known.",
            ),
            begun: whole(
                "promptmill_lane_calls_begun",
                "Calls of a lane since it learns, in the whole fleet.",
            ),
            refused: whole(
                "promptmill_lane_calls_refused",
                "Those of them that the provider refused for their rate or their number.",
            ),
            waiting: whole("promptmill_lane_waiting", "Calls of this process that wait for leave of a lane."),
            stands_still: decimals(
                at,
                "promptmill_lane_stands_still_seconds",
                "For how long no call of a lane begins: the provider said so, or is taken for gone.",
            ),
            open: whole(
                "promptmill_lane_breaker_open",
                "Whether the provider of a lane is taken for gone, and asked by one call at a time: 0 or 1.",
            ),
        }
    }

    /// Sets them to what the lanes are now.
    pub(super) fn set(&self, lanes: &[LaneReport]) {
        for LaneReport { lane, view, waiting, .. } in lanes {
            let lane = &[lane.as_str()];
            match view.allowed_per_s {
                Some(rate) => self.allowed.with_label_values(lane).set(rate),
                None => drop(self.allowed.remove_label_values(lane)),
            }
            self.used.with_label_values(lane).set(view.used_per_s);
            match view.window {
                Some(window) => self.window.with_label_values(lane).set(window.into()),
                None => drop(self.window.remove_label_values(lane)),
            }
            let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            self.begun.with_label_values(lane).set(whole(view.begun));
            self.refused.with_label_values(lane).set(whole(view.refused));
            self.waiting.with_label_values(lane).set(whole(*waiting as u64));
            let still: Gauge = self.stands_still.with_label_values(lane);
            still.set(view.stands_still.as_secs_f64());
            self.open.with_label_values(lane).set(view.is_open.into());
        }
    }
}
