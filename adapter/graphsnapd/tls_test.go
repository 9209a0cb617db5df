package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority is a CA with its files in dir.
type authority struct {
	t    *testing.T
	dir  string
	name string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir, name: name}
	a.cert, a.key = a.issue(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue makes a certificate, with the files name.pem and name-key.pem. The first one
// is the authority's own.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: name}
	template.NotAfter = time.Now().Add(24 * time.Hour)
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-48 * time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	writeFile(a.t, a.file(name), encode("CERTIFICATE", der), 0o600)
	writeFile(a.t, a.file(name+"-key"), encode("EC PRIVATE KEY", secret), 0o600)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name+".pem") }

func (a *authority) client(name string) {
	a.issue(name, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// tcpAddr is where the daemon says that it listens.
func (d *testDaemon) tcpAddr() (addr string) {
	d.t.Helper()
	d.waitFor("the TCP address in the log", func() bool {
		_, rest, ok := strings.Cut(d.log.String(), "running server on tcp://")
		addr, _, _ = strings.Cut(rest, `"`)
		return ok
	})
	return addr
}

// startWithTLS runs a daemon that listens at addr for clients with a certificate of ca,
// which "client" has. "other-client" has one of another.
func startWithTLS(t *testing.T, root string) (d *testDaemon, addr string, ca *authority) {
	t.Helper()
	dir := filepath.Join(root, "tls")
	ca, other := newAuthority(t, dir, "ca"), newAuthority(t, dir, "other-ca")
	ca.issue("server", &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	ca.client("client")
	other.client("other-client")
	d = startDaemon(t, root, "overlay2", "--addr", "tcp://127.0.0.1:0",
		"--tlscert", ca.file("server"), "--tlskey", ca.file("server-key"), "--tlscacert", ca.file("ca"))
	return d, d.tcpAddr(), ca
}

// TestMutualTLS checks who may build over TCP: only who shows a certificate of the
// right CA, and only to a daemon whose certificate is of the CA that the client
// expects.
func TestMutualTLS(t *testing.T) {
	root := testRoot(t)
	d, addr, ca := startWithTLS(t, root)
	// A server's certificate is no client's.
	ca.issue("not-for-clients", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})

	for _, version := range buildctlVersions {
		for _, c := range []struct {
			name   string
			flags  []string
			let    bool
			reason string // that the client gives; where the daemon refuses it may only see a broken connection
		}{
			{"right certificate", []string{"--tlscacert", ca.file("ca"), "--tlscert", ca.file("client"), "--tlskey", ca.file("client-key")}, true, ""},
			{"no certificate", []string{"--tlscacert", ca.file("ca")}, false, ""},
			{"certificate of another CA", []string{"--tlscacert", ca.file("ca"), "--tlscert", ca.file("other-client"), "--tlskey", ca.file("other-client-key")}, false, ""},
			{"certificate for servers", []string{"--tlscacert", ca.file("ca"), "--tlscert", ca.file("not-for-clients"), "--tlskey", ca.file("not-for-clients-key")}, false, ""},
			{"another CA expected of the daemon", []string{"--tlscacert", ca.file("other-ca"), "--tlscert", ca.file("client"), "--tlskey", ca.file("client-key")}, false, "unknown authority"},
			{"another name expected of the daemon", []string{"--tlsservername", "elsewhere", "--tlscacert", ca.file("ca"), "--tlscert", ca.file("client"), "--tlskey", ca.file("client-key")}, false, "elsewhere"},
			{"no TLS", nil, false, ""},
		} {
			t.Run(version+"/"+c.name, func(t *testing.T) {
				// buildctl tries again and again while it cannot connect.
				args := append([]string{"--addr", "tcp://" + addr, "--timeout", "2"}, c.flags...)
				out, err := exec.Command(buildctlBinary(t, version), append(args, "debug", "workers")...).CombinedOutput()
				if in := err == nil && strings.Contains(string(out), "linux/"); in != c.let {
					t.Errorf("let in: %v, want %v: %v\n%s", in, c.let, err, out)
				}
				if !strings.Contains(string(out), c.reason) {
					t.Errorf("refused, without the word %q:\n%s", c.reason, out)
				}
			})
		}
	}
	// Those who were refused have not harmed it.
	d.mustBuildctl(buildctlVersions[0], "debug", "workers")
}
