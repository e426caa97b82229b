// A Vault for the tests: Vault's own core and HTTP interface over storage in memory, with the engines and logins that
// chancery meets. Nothing here is a part of chancery, and nothing of it is shipped.
//
// Once it serves it writes one line of JSON to standard output: its address, and unless -no-init was given the root
// token and the key that unseals it. It ends on SIGTERM.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// builtins is the catalogue that the core asks when something is mounted.
type builtins map[consts.PluginType]map[string]logical.Factory

var catalogue = builtins{
	consts.PluginTypeCredential: {"approle": approle.Factory, "cert": cert.Factory, "kubernetes": kubernetes.Factory},
	consts.PluginTypeSecrets:    {"pki": pki.Factory, "transit": transit.Factory},
}

func (b builtins) Contains(name string, kind consts.PluginType) bool {
	_, found := b[kind][name]
	return found
}

func (b builtins) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	factory, found := b[kind][name]
	return func() (interface{}, error) { return factory, nil }, found
}

func (b builtins) Keys(kind consts.PluginType) []string {
	var names []string
	for name := range b[kind] {
		names = append(names, name)
	}
	return names
}

func (b builtins) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, b.Contains(name, kind)
}

func (builtins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "vault for tests:", err)
		os.Exit(1)
	}
}

// listener opens address, with TLS where a certificate is given; clients may show a certificate by clientCA.
func listener(address, certificate, key, clientCA string) (net.Listener, string) {
	plain, err := net.Listen("tcp", address)
	check(err)
	if certificate == "" {
		return plain, "http"
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	check(err)
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
		ClientAuth:   tls.RequestClientCert,
	}
	if clientCA != "" {
		pem, err := os.ReadFile(clientCA)
		check(err)
		config.ClientCAs = x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(pem)
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return tls.NewListener(plain, config), "https"
}

// unseal initialises the core with one key and opens it.
func unseal(core *vault.Core) (token, key string) {
	made, err := core.Initialize(context.Background(), &vault.InitParams{
		BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		RecoveryConfig: &vault.SealConfig{},
	})
	check(err)
	share := made.SecretShares[0]
	key = fmt.Sprintf("%x", share)
	_, err = core.Unseal(append([]byte(nil), share...))
	check(err)
	return made.RootToken, key
}

func main() {
	address := flag.String("addr", "127.0.0.1:0", "where to listen")
	certificate := flag.String("tls-cert", "", "certificate chain, PEM; without it plain HTTP")
	key := flag.String("tls-key", "", "its key, PEM")
	clientCA := flag.String("client-ca", "", "who signs client certificates, PEM")
	noInit := flag.Bool("no-init", false, "leave it uninitialised")
	level := flag.String("log", "warn", "how much to log")
	flag.Parse()

	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(*level), Output: os.Stderr})
	storage, err := inmem.NewInmem(nil, logger)
	check(err)
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		Logger:             logger,
		DisableMlock:       true,
		BuiltinRegistry:    catalogue,
		LogicalBackends:    catalogue[consts.PluginTypeSecrets],
		CredentialBackends: catalogue[consts.PluginTypeCredential],
		DefaultLeaseTTL:    768 * time.Hour,
		MaxLeaseTTL:        10 * 365 * 24 * time.Hour,
	})
	check(err)

	open, scheme := listener(*address, *certificate, *key, *clientCA)
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core:           core,
		ListenerConfig: &configutil.Listener{Type: "tcp", Address: *address, TLSDisable: scheme == "http"},
	})
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { check(server.Serve(open)) }()

	ready := map[string]string{"addr": scheme + "://" + open.Addr().String()}
	if !*noInit {
		ready["root_token"], ready["unseal_key"] = unseal(core)
	}
	check(json.NewEncoder(os.Stdout).Encode(ready))

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
	<-ended
	_ = core.Shutdown()
}
