package queue

import "context"

// EnabledVersion returns the number of the version of a topology that takes new events, as fresh as [Engine.Accept] knows
// it. It fails as that does where there is none.
func (e *Engine) EnabledVersion(ctx context.Context, tenant int64, name string) (int, error) {
	v, err := e.catalog.route(ctx, tenant, name, 0)
	if err != nil {
		return 0, err
	}
	return v.Number, nil
}
