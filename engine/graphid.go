package engine

import (
	"crypto/rand"
	"strings"
)

// A graph ID is the key where the driver can bear that, so that dockerd finds the
// directory by the key. overlay2 splits lower directories at ":", vfs takes the
// last element of a path, and both would leave their home at "..": only plain
// names are used.
func plainName(key string) bool {
	if len(key) == 0 || len(key) > 128 {
		return false
	}
	for i := range len(key) {
		c := key[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// takeGraphID reserves a graph ID for a new directory: one that no record and no
// removal that is not finished bears, and that names nothing in the driver's
// home, whoever made it. It is free again after freeGraphID.
func (e *Engine) takeGraphID(key string) string {
	if plainName(key) && e.graphIDs.Take(key) {
		if !e.driver.Exists(key) {
			return key
		}
		e.graphIDs.Free(key)
	}
	for {
		id := strings.ToLower(rand.Text())
		if e.graphIDs.Take(id) {
			if !e.driver.Exists(id) {
				return id
			}
			e.graphIDs.Free(id)
		}
	}
}
