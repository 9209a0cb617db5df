package actors

// Waiting tells how many messages wait for the owner of key, and how many senders
// wait for room to add theirs, for display and tests.
func (o *Owners[V]) Waiting(key string) (queued, line int) {
	s, h := o.table.locate(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := o.table.find(s, h, key)
	if c == nil || c.box == nil {
		return 0, 0
	}
	for w := c.box.queue.line.first; w != nil; w = w.next {
		line++
	}
	return c.box.queue.n, line
}
