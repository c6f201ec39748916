// SPDX-License-Identifier: Apache-2.0

package forensics

import "context"

// A LayerSource whose layer is put together from many files tells which of them
// cannot be read.
type manyFiles interface {
	EachUnreadable(ctx context.Context, f func(error)) error
}

// eachUnread tells f of OnUnread of each file of the layers from first on that
// cannot be read.
func (s *Stack) eachUnread(ctx context.Context, first int) error {
	if s.unread == nil {
		return nil
	}
	for _, l := range s.Layers {
		src, ok := l.src.(manyFiles)
		if !ok || l.Index < first {
			continue
		}
		if err := src.EachUnreadable(ctx, func(err error) { s.unread(&UnreadError{err}) }); err != nil {
			return l.error(err)
		}
	}
	return nil
}
