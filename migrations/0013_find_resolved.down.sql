drop index sluice.decision_verdict_idx;
