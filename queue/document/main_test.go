package document_test

import (
	"testing"

	"sluice/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
