package trash

// The statements of lists, for tests that look at their plans.
const (
	OldestSQL   = oldestSQL
	OldestOfSQL = oldestOfSQL
)
