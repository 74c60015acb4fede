package datastore

import "fmt"

// Check refuses transactions that no implementation accepts: empty ones, keys
// that occur twice, and those over MaxTxnBytes.
func (t Txn) Check() error {
	if len(t.Ops) == 0 {
		return fmt.Errorf("committing: the transaction is empty")
	}
	bytes := 0
	for i, op := range t.Ops {
		bytes += len(op.Key) + len(op.Value)
		if op.Key == "" {
			return fmt.Errorf("committing: operation %d has no key", i)
		}
		for _, other := range t.Ops[:i] {
			if other.Key == op.Key {
				return fmt.Errorf("committing: key %s occurs twice", op.Key)
			}
		}
	}
	if bytes > MaxTxnBytes {
		return fmt.Errorf("committing %d bytes: %w", bytes, ErrTooLarge)
	}
	return nil
}
