package persist

import (
	"io"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// What is done to the files of a database passes these functions, each of which is a
// crash point. A rollback is not among them: it changes memory alone.

func openFile(path string, o *bolt.Options) (*bolt.DB, error) {
	crashpoint.Before("db.Open")
	db, err := bolt.Open(path, 0o600, o)
	crashpoint.After("db.Open")
	return db, err
}

func closeFile(db *bolt.DB) error {
	crashpoint.Before("db.Close")
	err := db.Close()
	crashpoint.After("db.Close")
	return err
}

func view(db *bolt.DB, f func(*bolt.Tx) error) error {
	crashpoint.Before("db.View")
	err := db.View(f)
	crashpoint.After("db.View")
	return err
}

func begin(db *bolt.DB) (*bolt.Tx, error) {
	crashpoint.Before("db.Begin")
	tx, err := db.Begin(true)
	crashpoint.After("db.Begin")
	return tx, err
}

func commit(tx *bolt.Tx) error {
	crashpoint.Before("db.Commit")
	err := tx.Commit()
	crashpoint.After("db.Commit")
	return err
}

func writeTo(tx *bolt.Tx, w io.Writer) error {
	crashpoint.Before("db.WriteTo")
	_, err := tx.WriteTo(w)
	crashpoint.After("db.WriteTo")
	return err
}

func syncFile(f *os.File) error {
	crashpoint.Before("db.Sync")
	err := f.Sync()
	crashpoint.After("db.Sync")
	return err
}

func rename(from, to string) error {
	crashpoint.Before("db.Rename")
	err := os.Rename(from, to)
	crashpoint.After("db.Rename")
	return err
}

func remove(path string) error {
	crashpoint.Before("db.Remove")
	err := os.Remove(path)
	crashpoint.After("db.Remove")
	return err
}
