package pull

import (
	"testing"

	"sluice/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
