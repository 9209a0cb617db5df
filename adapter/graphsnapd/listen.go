package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// socketMode lets the owner and the group given with --group build, nobody else.
const socketMode = 0o660

func splitAddr(addr string) (network, where string, err error) {
	network, where, ok := strings.Cut(addr, "://")
	switch {
	case !ok:
		return "", "", usagef("--addr %q has no protocol: did you mean unix://%s?", addr, addr)
	case network != "unix" && network != "tcp":
		return "", "", usagef("--addr %q: protocol %q is neither unix nor tcp", addr, network)
	case where == "":
		return "", "", usagef("--addr %q names no place to listen at", addr)
	}
	return network, where, nil
}

// listenAll opens every address or none.
func listenAll(set *settings) (_ []net.Listener, err error) {
	tlsConfig, err := loadTLS(set.tls)
	if err != nil {
		return nil, err
	}
	var listeners []net.Listener
	defer func() {
		if err != nil {
			closeListeners(listeners)
		}
	}()
	for _, addr := range set.addrs {
		network, where, err := splitAddr(addr)
		if err != nil {
			return nil, err
		}
		var l net.Listener
		if network == "unix" {
			l, err = listenUnix(where, set.gid)
		} else {
			l, err = net.Listen("tcp", where)
			if err == nil && tlsConfig != nil {
				l = tls.NewListener(l, tlsConfig)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("listen at %s: %w", addr, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeListeners(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// listenUnix makes the socket, replacing one that a dead daemon left behind but
// not one that still answers. Closing the listener removes it.
func listenUnix(path string, gid int) (_ net.Listener, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is not a socket", path)
		}
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("another daemon answers at %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	}
	// The socket must not be open to others for the moment between bind(2) and
	// chmod(2). The umask is the whole process's; nothing else runs yet.
	old := unix.Umask(0o777 &^ 0o600)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := os.Chown(path, os.Getuid(), gid); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, err
	}
	return l, nil
}

// loadTLS returns nil where no certificate was given. With a CA, clients must
// show a certificate that it signed.
func loadTLS(files tlsFiles) (*tls.Config, error) {
	if files == (tlsFiles{}) {
		return nil, nil
	}
	if files.cert == "" || files.key == "" {
		return nil, usagef("--tlscert and --tlskey must be given together")
	}
	cert, err := tls.LoadX509KeyPair(files.cert, files.key)
	if err != nil {
		return nil, fmt.Errorf("load server key pair: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if files.ca == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(files.ca)
	if err != nil {
		return nil, fmt.Errorf("read --tlscacert: %w", err)
	}
	conf.ClientCAs = x509.NewCertPool()
	if !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("--tlscacert " + files.ca + " holds no certificate")
	}
	conf.ClientAuth = tls.RequireAndVerifyClientCert
	return conf, nil
}
