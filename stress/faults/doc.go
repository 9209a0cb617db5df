// Package faults makes calls of the driver, the layer store and the database fail, take
// long and panic, at given rates and as a seed says.
//
// A driver or a layer store in memory asks an Injector before each of its calls (Memory). The
// database has no such place, nor has what stands on a real file system: there crash
// points ask (actors/crashpoint), in a build that has them.
//
// It imports actors/crashpoint, errdefs and the standard library.
package faults
