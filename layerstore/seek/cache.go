// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/imgfs/imgfs/layerstore/seek/inflate"
)

// defaultCache is the size of the cache of a Reader that was given none.
const defaultCache = 16 << 20

// bufferUnit is what the sizes of buffers are rounded up to, so that the
// buffer of one chunk serves the next.
const bufferUnit = 128 << 10

// A Cache holds decoded chunks, up to a number of bytes, for all the Readers
// that were opened with it. Each chunk is decoded once however many ask for
// it, those of gzip no further than somebody asked, and when reads go forwards
// the next are decoded ahead. It is safe for concurrent use.
//
// What is being decoded counts, so the bound can be passed only by what as
// many decodes as twice the processors need at once, when all else is in use.
// A chunk that is decoded in part keeps a decoder besides, some 150 KiB.
type Cache struct {
	max   int64
	ahead int           // chunks to decode ahead
	sem   chan struct{} // one for each decode at a time
	zstd  *zstd.Decoder
	flate sync.Pool // of *inflate.Decoder

	mu         sync.Mutex
	idle       sync.Cond // of mu: some Reader has become idle
	chunks     map[chunkKey]*chunk
	used       int64    // capacity of all buffers
	spare      [][]byte // buffers of no chunk
	background int      // goroutines that decode ahead
	newest     chunk    // root of the ring of chunks, newest first
}

type chunkKey struct {
	r *Reader
	i int
}

// chunk is a chunk that is decoded, or the first part of it, or that will be.
// While somebody holds one of its refs it has its buffer.
type chunk struct {
	key chunkKey

	// Guarded by Cache.mu.
	prev, next *chunk // in the ring
	refs       int    // who uses it
	ahead      bool   // decoded ahead and not yet read
	failed     bool   // to be forgotten when nobody uses it

	valid atomic.Int64 // so many bytes of data are decoded and verified
	data  []byte       // written once, before valid is set first

	mu   sync.Mutex // held while more of it is decoded
	buf  []byte     // guarded by mu; data lies in it
	gzip gzipRun    // guarded by mu
	err  error      // guarded by mu; what ended decoding
}

// NewCache returns a cache of at most maxBytes.
func NewCache(maxBytes int64) *Cache {
	procs := runtime.GOMAXPROCS(0)
	c := &Cache{
		max: maxBytes, ahead: min(2*procs, 8),
		sem: make(chan struct{}, 2*procs), zstd: zstdCodec(),
		chunks: map[chunkKey]*chunk{},
	}
	c.flate.New = func() any { return new(inflate.Decoder) }
	c.idle.L = &c.mu
	c.newest.prev, c.newest.next = &c.newest, &c.newest
	return c
}

// get returns chunk i of r, the first want bytes of which can be read until the
// caller gives it back by put.
func (c *Cache) get(r *Reader, i int, want int64) (*chunk, error) {
	c.mu.Lock()
	if r.closed {
		c.mu.Unlock()
		return nil, os.ErrClosed
	}
	key := chunkKey{r, i}
	ch, ok := c.chunks[key]
	if ok {
		ch.unlink()
		c.linkLocked(ch)
		c.useLocked(ch)
		if ch.ahead {
			ch.ahead = false
			c.decodeAheadLocked(r, i+1)
		}
	} else {
		ch = c.addLocked(key)
		if _, forwards := c.chunks[chunkKey{r, i - 1}]; forwards {
			c.decodeAheadLocked(r, i+1)
		}
	}
	c.mu.Unlock()
	if ch.valid.Load() < want {
		if err := c.load(ch, want); err != nil {
			c.put(ch)
			return nil, err
		}
	}
	return ch, nil
}

// has reports whether the first want bytes of chunk i of r are decoded.
func (c *Cache) has(r *Reader, i int, want int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.chunks[chunkKey{r, i}]
	return ok && ch.valid.Load() >= want
}

// put gives back what get returned.
func (c *Cache) put(ch *chunk) {
	c.mu.Lock()
	ch.refs--
	if ch.failed && ch.refs == 0 {
		c.dropLocked(ch)
	}
	c.leaveLocked(ch.key.r)
	c.mu.Unlock()
}

func (c *Cache) useLocked(ch *chunk) {
	ch.refs++
	ch.key.r.active++
}

// enter makes r busy, until leave.
func (c *Cache) enter(r *Reader) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	r.active++
	return nil
}

func (c *Cache) leave(r *Reader) {
	c.mu.Lock()
	c.leaveLocked(r)
	c.mu.Unlock()
}

func (c *Cache) leaveLocked(r *Reader) {
	r.active--
	if r.active == 0 && r.closed {
		c.idle.Broadcast()
	}
}

// addLocked adds a chunk for who is going to use it.
func (c *Cache) addLocked(key chunkKey) *chunk {
	ch := &chunk{key: key}
	c.chunks[key] = ch
	c.linkLocked(ch)
	c.useLocked(ch)
	return ch
}

func (c *Cache) linkLocked(ch *chunk) {
	ch.prev, ch.next = &c.newest, c.newest.next
	ch.prev.next, ch.next.prev = ch, ch
}

func (ch *chunk) unlink() {
	ch.prev.next, ch.next.prev = ch.next, ch.prev
	ch.prev, ch.next = nil, nil
}

// decodeAheadLocked starts decoding chunk i, and some that follow it, in the
// background.
func (c *Cache) decodeAheadLocked(r *Reader, i int) {
	for end := min(i+c.ahead, r.t.chunks()); i < end && c.background < c.ahead; i++ {
		key := chunkKey{r, i}
		if _, ok := c.chunks[key]; ok {
			continue
		}
		ch := c.addLocked(key)
		ch.ahead = true
		c.background++
		go c.loadAll(ch)
	}
}

// loadAll decodes ch in the background: part by part, so that who reads it need
// not wait for all of it.
func (c *Cache) loadAll(ch *chunk) {
	lo, hi := ch.key.r.t.span(ch.key.i)
	for valid := int64(0); valid < hi-lo; valid = ch.valid.Load() {
		if c.load(ch, valid+1) != nil {
			break // who reads it is told
		}
	}
	c.mu.Lock()
	c.background--
	c.mu.Unlock()
	c.put(ch)
}

// load decodes the first want bytes of ch, where that is not done.
func (c *Cache) load(ch *chunk, want int64) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.valid.Load() >= want {
		return nil
	}
	if ch.err != nil {
		return ch.err
	}
	c.sem <- struct{}{}
	if ch.buf == nil {
		ch.buf = c.buffer(ch.key.r.bufferSize(ch.key.i))
	}
	err := more(ch, want)
	<-c.sem
	if err != nil {
		ch.err = fmt.Errorf("chunk %d: %w", ch.key.i, err)
	}
	c.mu.Lock()
	ch.failed = err != nil
	c.shrinkLocked(0)
	c.mu.Unlock()
	return ch.err
}

// more turns a panic into an error: it may run in the background, where a
// panic would end the process.
func more(ch *chunk, want int64) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v: %w", p, ErrCorrupt)
		}
	}()
	return ch.key.r.more(ch, want)
}

// release ends the decoding of a chunk.
func (c *Cache) release(z *gzipRun) {
	if z.d != nil {
		z.d.Release()
		c.flate.Put(z.d)
		z.d = nil
	}
}

// buffer returns a buffer of at least n bytes.
func (c *Cache) buffer(n int) []byte {
	n = (n + bufferUnit - 1) / bufferUnit * bufferUnit
	c.mu.Lock()
	if c.used+int64(n) > c.max {
		c.evictLocked(n) // the oldest chunk's buffer may just fit
	}
	for k, b := range c.spare {
		if cap(b) >= n && cap(b) <= 2*n {
			last := len(c.spare) - 1
			c.spare[k] = c.spare[last]
			c.spare = c.spare[:last]
			c.mu.Unlock()
			return b[:n]
		}
	}
	c.shrinkLocked(int64(n))
	c.used += int64(n)
	c.mu.Unlock()
	return make([]byte, n)
}

func (c *Cache) spareLocked(b []byte) { c.spare = append(c.spare, b[:cap(b)]) }

// evictLocked moves buffers of the oldest chunks to the spare ones until n
// bytes of them are there, as far as chunks are not in use.
func (c *Cache) evictLocked(n int) {
	spare := 0
	for _, b := range c.spare {
		spare += cap(b)
	}
	for ch := c.newest.prev; ch != &c.newest && spare < n; {
		prev := ch.prev
		if ch.refs == 0 {
			spare += cap(ch.buf)
			c.dropLocked(ch)
		}
		ch = prev
	}
}

// dropLocked forgets a chunk that nobody uses.
func (c *Cache) dropLocked(ch *chunk) {
	ch.unlink()
	delete(c.chunks, ch.key)
	c.release(&ch.gzip)
	c.spareLocked(ch.buf)
	ch.buf, ch.data = nil, nil
}

// shrinkLocked makes room for n bytes more, as far as it can.
func (c *Cache) shrinkLocked(n int64) {
	for c.used+n > c.max {
		if len(c.spare) == 0 {
			c.evictLocked(1)
		}
		last := len(c.spare) - 1
		if last < 0 {
			return // all is in use
		}
		c.used -= int64(cap(c.spare[last]))
		c.spare[last] = nil
		c.spare = c.spare[:last]
	}
}

// close waits until nothing uses r and forgets its chunks.
func (c *Cache) close(r *Reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.closed = true
	for r.active > 0 {
		c.idle.Wait()
	}
	for ch := c.newest.next; ch != &c.newest; {
		next := ch.next
		if ch.key.r == r {
			c.dropLocked(ch)
		}
		ch = next
	}
}
