package persist

import (
	"errors"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// What is done to the files of a database passes these functions, each of which is a
// crash point. A rollback is not among them: it changes memory alone.

func openFile(path string, o *bolt.Options) (*bolt.DB, error) {
	if err := crashpoint.Before("db.Open"); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, o)
	crashpoint.After("db.Open")
	return db, err
}

func closeFile(db *bolt.DB) error {
	failed := crashpoint.Before("db.Close")
	err := db.Close() // or the file stays locked
	crashpoint.After("db.Close")
	return errors.Join(failed, err)
}

func view(db *bolt.DB, f func(*bolt.Tx) error) error {
	if err := crashpoint.Before("db.View"); err != nil {
		return err
	}
	err := db.View(f)
	crashpoint.After("db.View")
	return err
}

func begin(db *bolt.DB) (*bolt.Tx, error) {
	if err := crashpoint.Before("db.Begin"); err != nil {
		return nil, err
	}
	tx, err := db.Begin(true)
	crashpoint.After("db.Begin")
	return tx, err
}

func commit(tx *bolt.Tx) error {
	if err := crashpoint.Before("db.Commit"); err != nil {
		return errors.Join(err, tx.Rollback()) // what Commit does when it fails
	}
	err := tx.Commit()
	crashpoint.After("db.Commit")
	return err
}

func writeTo(tx *bolt.Tx, w io.Writer) error {
	if err := crashpoint.Before("db.WriteTo"); err != nil {
		return err
	}
	_, err := tx.WriteTo(w)
	crashpoint.After("db.WriteTo")
	return err
}

func compact(to, from *bolt.DB) error {
	if err := crashpoint.Before("db.Compact"); err != nil {
		return err
	}
	err := bolt.Compact(to, from, compactBatch)
	crashpoint.After("db.Compact")
	return err
}

func syncDB(db *bolt.DB) error {
	if err := crashpoint.Before("db.SyncAll"); err != nil {
		return err
	}
	err := db.Sync()
	crashpoint.After("db.SyncAll")
	return err
}

func syncFile(f *os.File) error {
	if err := crashpoint.Before("db.Sync"); err != nil {
		return err
	}
	err := f.Sync()
	crashpoint.After("db.Sync")
	return err
}

func rename(from, to string) error {
	if err := crashpoint.Before("db.Rename"); err != nil {
		return err
	}
	err := os.Rename(from, to)
	crashpoint.After("db.Rename")
	return err
}

func remove(path string) error {
	if err := crashpoint.Before("db.Remove"); err != nil {
		return err
	}
	err := os.Remove(path)
	crashpoint.After("db.Remove")
	return err
}
