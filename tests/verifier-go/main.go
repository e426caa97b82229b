// Verifier checks chancery's ledger with code that chancery's authors did not write: Tessera's fsck for the tiles and
// the Go checksum database's packages for notes and proofs. It is test-only and holds no arithmetic of its own.
//
//	verifier fsck DIR VKEYFILE                       the log in DIR is whole and signed
//	verifier consistency DIR VKEYFILE CHECKPOINT     the log in DIR extends CHECKPOINT
//	verifier receipt RECEIPT VKEYFILE RECORD         RECEIPT (c2sp.org/tlog-proof@v1) proves RECORD
//
// Exit codes: 0 proved, 1 disproved (the reason is on standard error), 2 wrong usage.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"k8s.io/klog/v2"
)

const usage = "usage: verifier fsck DIR VKEYFILE | consistency DIR VKEYFILE CHECKPOINT | receipt RECEIPT VKEYFILE RECORD"

func main() {
	// fsck reports its progress through klog; only its verdict matters here.
	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	_ = klogFlags.Set("stderrthreshold", "FATAL")
	_ = klogFlags.Set("logtostderr", "false")
	_ = klogFlags.Set("alsologtostderr", "false")

	args := os.Args[1:]
	var verdict string
	var err error
	switch {
	case len(args) == 3 && args[0] == "fsck":
		verdict, err = checkLog(args[1], args[2])
	case len(args) == 4 && args[0] == "consistency":
		verdict, err = checkConsistency(args[1], args[2], args[3])
	case len(args) == 4 && args[0] == "receipt":
		verdict, err = checkReceipt(args[1], args[2], args[3])
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "not proved:", err)
		os.Exit(1)
	}
	fmt.Println(verdict)
}

// checkLog rebuilds every tile and the root from the entries and compares them with what is stored.
func checkLog(dir, vkeyFile string) (string, error) {
	verifier, err := readVerifier(vkeyFile)
	if err != nil {
		return "", err
	}
	check := fsck.New(verifier.Name(), verifier, client.FileFetcher{Root: dir}, recordHashes, fsck.Opts{N: 2})
	if err := check.Check(context.Background()); err != nil {
		return "", err
	}
	tree, err := readCheckpoint(filepath.Join(dir, "checkpoint"), verifier)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("proved: %d records, root %s", tree.N, tree.Hash), nil
}

// checkConsistency proves from the stored tiles that the log's tree extends that of an older checkpoint.
func checkConsistency(dir, vkeyFile, olderFile string) (string, error) {
	verifier, err := readVerifier(vkeyFile)
	if err != nil {
		return "", err
	}
	older, err := readCheckpoint(olderFile, verifier)
	if err != nil {
		return "", fmt.Errorf("older checkpoint: %w", err)
	}
	newer, err := readCheckpoint(filepath.Join(dir, "checkpoint"), verifier)
	if err != nil {
		return "", fmt.Errorf("checkpoint of the log: %w", err)
	}
	if older.N > newer.N {
		return "", fmt.Errorf("the log has %d records, fewer than the %d of the older checkpoint", newer.N, older.N)
	}
	if older.N > 0 && older.N < newer.N {
		proof, err := tlog.ProveTree(newer.N, older.N, tlog.TileHashReader(newer, tiles(dir)))
		if err != nil {
			return "", err
		}
		if err := tlog.CheckTree(proof, newer.N, newer.Hash, older.N, older.Hash); err != nil {
			return "", fmt.Errorf("size %d does not extend size %d: %w", newer.N, older.N, err)
		}
	}
	if older.N == newer.N && older.Hash != newer.Hash {
		return "", fmt.Errorf("two histories of size %d: %s and %s", newer.N, older.Hash, newer.Hash)
	}
	return fmt.Sprintf("proved: size %d extends size %d", newer.N, older.N), nil
}

// checkReceipt checks an inclusion proof and the checkpoint that it carries, offline.
func checkReceipt(receiptFile, vkeyFile, recordFile string) (string, error) {
	verifier, err := readVerifier(vkeyFile)
	if err != nil {
		return "", err
	}
	receipt, err := os.ReadFile(receiptFile)
	if err != nil {
		return "", err
	}
	record, err := os.ReadFile(recordFile)
	if err != nil {
		return "", err
	}
	head, checkpoint, found := strings.Cut(string(receipt), "\n\n")
	if !found {
		return "", errors.New("no empty line before the checkpoint")
	}
	lines := strings.Split(head, "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" {
		return "", fmt.Errorf("first line is %q", lines[0])
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return "", errors.New("no index line")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "index "), 10, 64)
	if err != nil {
		return "", err
	}
	var proof tlog.RecordProof
	for _, line := range lines[1:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return "", err
		}
		proof = append(proof, hash)
	}
	tree, err := openCheckpoint([]byte(checkpoint), verifier)
	if err != nil {
		return "", err
	}
	if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(record)); err != nil {
		return "", err
	}
	return fmt.Sprintf("proved: record %d of %d in %s", index, tree.N, verifier.Name()), nil
}

func readVerifier(file string) (note.Verifier, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(strings.TrimSpace(string(text)))
}

func readCheckpoint(file string, verifier note.Verifier) (tlog.Tree, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return tlog.Tree{}, err
	}
	return openCheckpoint(text, verifier)
}

// openCheckpoint verifies a signed note and reads its three lines: origin, size, root hash (c2sp.org/tlog-checkpoint).
func openCheckpoint(text []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("the checkpoint's text is not that of %s", verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	hash, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: hash}, err
}

func recordHashes(bundle []byte) ([][]byte, error) {
	entries := api.EntryBundle{}
	if err := entries.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	hashes := make([][]byte, 0, len(entries.Entries))
	for _, entry := range entries.Entries {
		hash := tlog.RecordHash(entry)
		hashes = append(hashes, hash[:])
	}
	return hashes, nil
}

// tiles reads hash tiles by the paths of c2sp.org/tlog-tiles, which lack the height that the Go database's have.
type tiles string

func (tiles) Height() int { return 8 }

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (dir tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, 0, len(wanted))
	for _, tile := range wanted {
		name := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		bytesOf, err := os.ReadFile(filepath.Join(string(dir), name))
		if errors.Is(err, os.ErrNotExist) {
			// The partial tile is removed once the full one exists; its bytes are the full one's beginning.
			full, _, _ := strings.Cut(name, ".p/")
			bytesOf, err = os.ReadFile(filepath.Join(string(dir), full))
		}
		if err != nil {
			return nil, err
		}
		if len(bytesOf) < tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s holds %d bytes", name, len(bytesOf))
		}
		data = append(data, bytes.Clone(bytesOf[:tile.W*tlog.HashSize]))
	}
	return data, nil
}
