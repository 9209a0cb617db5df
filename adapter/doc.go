// Package adapter lets BuildKit and Docker use the engine. It is thin: it turns
// their interfaces into calls of the engine and their graph drivers into what the
// engine needs of one.
//
// [NewSnapshotter] is the face that BuildKit's worker and dockerd's builder take.
// The daemon graphsnapd lies below in its own folder.
//
// The package stands on floor 4 and may import everything below it, BuildKit,
// containerd and docker/docker.
package adapter
