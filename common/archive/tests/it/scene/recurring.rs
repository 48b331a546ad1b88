//! What recurs: schedules with rows of their own, ticks, and row sets.

use promptmill_domain::schedule::{
    Begun, Decided, Misfire, Missed, MonthSpend, Policies, RowSource, Rule, RunSpec, TemplateChoice, TickBy,
    Timing, WhySkipped,
};
use promptmill_domain::{
    Money, RowSetId, Schedule, ScheduleId, ScheduleState, TemplateId, Tick, TickRef, TickState, UploadId,
};
use promptmill_ports::{NewBatch, RowBlock, RowSet, RowSetVersion, TemplateKey, WholeBatch};

use super::{LARGE, NOW, Scene, block, new_batch};

impl Scene<'_> {
    /// Row sets, and schedules in each state with ticks in each.
    pub(super) async fn recurring(&mut self) {
        let set = self.row_set(&[1, 2, 3]).await;
        // A version that was given up is none any more.
        let given_up = self.store.row_set(&self.tenant, set).await.unwrap();
        let versions = given_up.versions[1..].to_vec();
        let given_up = RowSet { versions, ver: 2, ..given_up };
        assert!(self.store.put_row_set(&given_up, NOW).await.unwrap());
        while self.store.drop_set_uploads(u64::MAX, 100).await.unwrap() > 0 {}

        let template = TemplateKey::Name("first".to_owned());
        let template = self.store.template(&self.tenant, &template).await.unwrap().id;
        let made = self.schedule(Some(NOW + 5)).await;
        let begun = Begun {
            ticks: vec![(NOW, Decided::Missed), (NOW + 60_000, Decided::Run)],
            missed: Some(Missed { first_ms: NOW - 60_000, last_ms: NOW, count: 2, is_exact: true }),
        };
        let mut begun = Schedule { begun: Some(begun), ver: 2, ..made };
        begun.run.rows = RowSource::Set { set, version: None };
        begun.policies.max_cost_per_month = Some(Money::from_pico(9_000));
        let held = vec![(NOW - 120_000, Money::from_pico(7))];
        begun.spend = Some(MonthSpend { month: "2026-09".to_owned(), spent: Money::from_pico(5), held });
        begun.run.template = Some(TemplateChoice { id: template, label: None });
        assert!(self.store.put_schedule(&begun).await.unwrap());

        let made = self.schedule(None).await;
        let mut paused = Schedule { state: ScheduleState::Paused { at_ms: NOW + 1 }, ver: 2, ..made };
        // Its template was deleted.
        let gone = TemplateId::at(NOW, rand::random());
        paused.run.template = Some(TemplateChoice { id: gone, label: None });
        assert!(self.store.put_schedule(&paused).await.unwrap());

        let made = self.schedule(Some(NOW + 7)).await;
        self.ticks(&made).await;
    }

    /// A row set whose versions have so many blocks. Those of one with more than three are not read or put in one step.
    pub(crate) async fn row_set(&mut self, blocks: &[u32]) -> RowSetId {
        let id = RowSetId::at(NOW + self.sets, rand::random());
        self.sets += 1;
        let mut versions = Vec::new();
        for (number, blocks) in (1..).zip(blocks) {
            versions.push(self.put_set_blocks(id, number, *blocks).await);
        }
        let (name, tenant) = (Some("cities, Zürich".to_owned()), self.tenant.clone());
        let set = RowSet { id, tenant, name, versions, created_ms: NOW + 2, ver: 1 };
        assert!(self.store.put_row_set(&set, NOW).await.unwrap());
        id
    }

    async fn put_set_blocks(&self, set: RowSetId, version: u32, blocks: u32) -> RowSetVersion {
        let upload = UploadId::at(NOW, rand::random());
        let rows: Vec<_> = (0..blocks)
            .map(|seq| {
                let mut bytes = vec![0; if blocks > 3 { LARGE } else { 100 }];
                rand::fill(&mut bytes[..]);
                RowBlock { bytes: bytes.into(), ..block(seq, 200) }
            })
            .collect();
        let bytes = rows.iter().map(|block| block.bytes.len() as u64).sum();
        for block in rows {
            self.store.put_set_blocks(&self.tenant, set, upload, vec![block], NOW).await.unwrap();
        }
        let (rows, digest) = (u64::from(blocks) * 200, "ab".repeat(32));
        RowSetVersion {
            version,
            upload,
            blocks,
            rows,
            bytes,
            digest,
            created_ms: NOW + u64::from(version),
            origin: None,
        }
    }

    /// A schedule with rows of its own and two changes behind it.
    pub(super) async fn schedule(&mut self, next_ms: Option<u64>) -> Schedule {
        let id = ScheduleId::at(NOW + self.schedules.len() as u64, rand::random());
        self.schedules.push(id);
        let set = Schedule::own_rows(id);
        let versions = vec![self.put_set_blocks(set, 1, 2).await];
        let own =
            RowSet { id: set, tenant: self.tenant.clone(), name: None, versions, created_ms: NOW, ver: 1 };
        assert!(self.store.put_row_set(&own, NOW).await.unwrap());
        let NewBatch { mut spec, limits, .. } = new_batch(0, true);
        spec.webhook.as_mut().unwrap().sealed_secret = "pmv1.fifth.AAAA".to_owned();
        let rule = Rule::Cron { pattern: "0 3 * * *".to_owned(), zone: "Europe/Zurich".to_owned() };
        let schedule = Schedule {
            id,
            tenant: self.tenant.clone(),
            name: Some("nightly, Zürich".to_owned()),
            timing: Timing { rule, start_ms: Some(1), end_ms: Some(NOW + 1_000_000), jitter_ms: 5 },
            policies: Policies { misfire: Misfire::RunEach { most: 3 }, ..Policies::default() },
            state: ScheduleState::Active,
            next_ms,
            begun: None,
            spend: None,
            created_ms: NOW + 1,
            changed_ms: NOW + 2,
            ver: 1,
            run: RunSpec {
                template: None,
                rows: RowSource::Set { set, version: Some(1) },
                previous: None,
                limits,
                spec,
            },
        };
        assert!(self.store.put_schedule(&schedule).await.unwrap());
        schedule
    }

    /// More than a page of ticks of the schedule, in each state; the batch of one that runs is there.
    async fn ticks(&mut self, of: &Schedule) {
        let tick = |at: u64, ver, state| {
            let by = if at.is_multiple_of(2) { TickBy::Time } else { TickBy::Request };
            Tick { by, state, ver, ..Tick::decided(of, NOW + at, Decided::Run) }
        };
        let started_ms = NOW + 1;
        let mut ticks: Vec<_> = (10..1_400)
            .map(|at| tick(at, 3, TickState::Ended { started_ms, ended_ms: NOW + at, retry: 1 }))
            .collect();
        let skipped = [
            WhySkipped::Overlaps,
            WhySkipped::Replaced,
            WhySkipped::Budget,
            WhySkipped::Paused,
            WhySkipped::Missed,
        ];
        for (at, why) in (1_500..).zip(skipped) {
            ticks.push(tick(at, 1, TickState::Skipped { why }));
        }
        ticks.push(tick(3, 9, TickState::Failed { why: "ä".to_owned() }));
        ticks.push(tick(4, 1, TickState::DUE));
        ticks.push(tick(5, 3, TickState::Due { tries: 2, not_before_ms: NOW + 99 }));
        ticks.push(tick(6, 2, TickState::Running { started_ms, retry: 0 }));
        ticks.push(tick(7, 4, TickState::Running { started_ms, retry: 2 }));
        ticks.push(tick(8, 3, TickState::Again { started_ms, retry: 1, tries: 0, not_before_ms: NOW + 98 }));
        self.store.add_ticks(&ticks).await.unwrap();

        let mut batch = self.new_batch(true);
        batch.id = Tick::batch(of.id, NOW + 6, 0);
        batch.spec.tick = Some(TickRef { schedule: of.id, at_ms: NOW + 6 });
        *self.batches.last_mut().unwrap() = batch.id;
        let whole = WholeBatch { batch, rows: block(0, 3), digest: [5; 32] };
        self.store.accept(&self.tenant, whole).await.unwrap();
    }
}
