// Package corpus holds Dockerfiles that exercise what a file system can hold and
// what can be done to it between one layer and the next, and reads the images that
// they become so that those of two builders can be compared byte by byte. Tests of
// the daemons next to it use it.
//
// Only times are set aside: two builds have different ones.
//
// The program in fsop is copied into every image. It does what busybox cannot, and
// describes a whole file system from the inside, which becomes part of the image:
// so what a running container sees is compared too.
//
// The package stands on floor 4 and imports nothing of this module.
package corpus
