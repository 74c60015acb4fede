package memory_test

import (
	"testing"

	"orch/datastore"
	"orch/datastore/memory"
	"orch/datastore/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) datastore.Store { return memory.New() })
}
