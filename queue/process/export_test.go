package process

// The statements of lists, for tests that look at their plans.
const (
	NewestSQL   = newestSQL
	NewestOfSQL = newestOfSQL
	MessagesSQL = messagesSQL

	AboutListSQL      = aboutListSQL
	TraceProcessesSQL = traceProcessesSQL
	LookAtMost        = lookAtMost
)

// EvidenceSQL lists processes with rows in a table.
func EvidenceSQL(table string) string { return evidenceSQL(table) }
