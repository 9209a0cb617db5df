package corpus

// Case is a Dockerfile.
type Case struct {
	Name string
	body string // ends with a stage named image, starts from one named base
}

// Dockerfile returns the whole file. The last stage adds a list of what a container
// of the image sees.
func (c Case) Dockerfile() string {
	return `FROM scratch AS base
COPY bin/ /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /w /tmp && chmod 1777 /tmp
WORKDIR /w
` + c.body + `
FROM image
RUN fsop list / > /listing
`
}

// seed is a stage with a little of everything for other steps to change. Files that
// are put in each other's place differ in size: a differ takes those for the same that
// have one size and were written in one tick of the clock.
const seed = `FROM base AS seed
RUN mkdir -p d/e/f full && echo 1 > d/one && echo 2 > d/e/two && echo 3 > d/e/f/three && \
    for i in 1 2 3; do seq $i > full/$i; done && echo file > file && ln -s file symlink && ln file hard && \
    mkfifo fifo && fsop mknod null c 1 3
`

// Cases are all cases. Their names are distinct.
var Cases = []Case{
	// What lies in the context.
	{"copy a tree", "FROM base AS image\nCOPY files/tree /w/tree"},
	{"copy odd names", "FROM base AS image\nCOPY files/odd /w/odd"},
	{"copy links", "FROM base AS image\nCOPY files/links /w/links"},
	{"copy a sparse file", "FROM base AS image\nCOPY files/sparse files/empty /w/"},
	{"copy with mode and owner", "FROM base AS image\nCOPY --chown=12:34 --chmod=4711 files/a files/tree /w/owned/"},
	{"copy private directories", "FROM base AS image\nCOPY files/private /w/private"},
	{"copy all, linked", "FROM base AS image\nCOPY --link files /w/files"},
	{"copy onto a scratch image, linked", "FROM scratch AS lone\nCOPY --link files/links /links\nCOPY --link files/odd /odd\nFROM base AS image\nCOPY --from=lone / /w/"},

	// Deletes.
	{"delete a file", seed + "FROM seed AS image\nRUN rm file"},
	{"delete a directory", seed + "FROM seed AS image\nRUN rm -r d"},
	{"delete every kind", seed + "FROM seed AS image\nRUN rm -r symlink hard fifo null full"},
	{"delete and make again", seed + "FROM seed AS image\nRUN rm file && echo again > file && chmod 600 file"},
	{"delete what the layer made", seed + "FROM seed AS image\nRUN echo x > new && mkdir newdir && rm -r new newdir"},
	{"delete in one, make in the next", seed + "FROM seed AS image\nRUN rm -r d\nRUN mkdir d && echo other > d/other"},
	{"delete all", seed + "FROM seed AS image\nRUN rm -rf /w/* && rmdir /tmp"},

	// Replaced: opaque directories and changes of type.
	{"replace a directory by an empty one", seed + "FROM seed AS image\nRUN rm -r full && mkdir full"},
	{"replace a directory by another", seed + "FROM seed AS image\nRUN rm -r d && mkdir -p d/e && echo new > d/e/new"},
	{"replace a directory by a file", seed + "FROM seed AS image\nRUN rm -r d && echo file > d"},
	{"replace a directory by a symlink", seed + "FROM seed AS image\nRUN rm -r d && ln -s full d"},
	{"replace a file by a directory", seed + "FROM seed AS image\nRUN rm file && mkdir file && echo x > file/x"},
	{"replace a symlink by a directory", seed + "FROM seed AS image\nRUN rm symlink && mkdir symlink && echo x > symlink/x"},
	{"replace an opaque directory again", seed + "FROM seed AS image\nRUN rm -r d && mkdir d && echo 1 > d/1\nRUN rm -r d && mkdir d && echo 2 > d/2"},
	{"replace a file by a device", seed + "FROM seed AS image\nRUN rm file && fsop mknod file b 7 0"},

	// Renames.
	{"rename a file", seed + "FROM seed AS image\nRUN mv file renamed"},
	{"rename a directory", seed + "FROM seed AS image\nRUN mv d renamed"},
	{"rename over another", seed + "FROM seed AS image\nRUN mv full/1 full/2 && mv d/e full/e"},
	{"swap directories", seed + "FROM seed AS image\nRUN mv d t && mv full d && mv t full"},
	{"rename forth and back", seed + "FROM seed AS image\nRUN mv d t && mv t d && mv file f && mv f file"},

	// Metadata.
	{"change modes", seed + "FROM seed AS image\nRUN chmod 6755 file && chmod 1700 d && chmod 000 full/1"},
	{"change owners", seed + "FROM seed AS image\nRUN chown 1000:2000 file d && chown -h 5:6 symlink && chown -R 70000:80000 full"},
	{"touch", seed + "FROM seed AS image\nRUN touch file d/e"},
	{"rewrite with the same content", seed + "FROM seed AS image\nRUN cat file > copy && cat copy > file && rm copy"},
	{"change the root directory", "FROM base AS image\nRUN chmod 700 / && chown 3:4 /"},
	{"extended attributes", seed + "FROM seed AS image\nRUN fsop setxattr file user.name value && fsop setxattr d user.other value && fsop setxattr full/1 user.empty ''"},
	{"extended attributes, copied", seed + "FROM seed AS attributes\nRUN fsop setxattr file user.name value && fsop setxattr d user.other value\nFROM base AS image\nCOPY --from=attributes /w /w/plain\nCOPY --link --from=attributes /w /w/linked"},
	{"file capabilities", "FROM base AS image\nRUN cp /bin/busybox capable && fsop setcap capable\nRUN cp -a capable copied && fsop setcap copied && mv capable moved"},
	{"file capabilities, copied", "FROM base AS capable\nRUN cp /bin/fsop tool && fsop setcap tool\nFROM base AS image\nCOPY --from=capable /w/tool /w/plain\nCOPY --link --from=capable /w/tool /w/linked"},
	{"capabilities taken away", "FROM base AS capable\nRUN echo x > tool && fsop setcap tool\nFROM capable AS image\nRUN chown 1:1 tool"},

	// Links, devices, and what is large or long.
	{"hard links in one layer", "FROM base AS image\nRUN echo x > a && ln a b && mkdir d && ln a d/c"},
	{"hard links over layers", seed + "FROM seed AS image\nRUN ln file another && ln d/one full/one"},
	{"write to a hard link below", seed + "FROM seed AS image\nRUN echo more >> hard"},
	{"delete one of two hard links", seed + "FROM seed AS image\nRUN rm file"},
	{"hard links to symlinks and devices", seed + "FROM seed AS image\nRUN ln null null2 && ln fifo fifo2"},
	{"devices and sockets", "FROM base AS image\nRUN fsop mknod c c 1 5 && fsop mknod b b 259 1048575 && mkfifo -m 640 p && fsop socket s"},
	{"devices, copied", "FROM base AS devices\nRUN fsop mknod c c 1 5 && mkfifo p\nFROM base AS image\nCOPY --link --from=devices /w /w/devices"},
	{"symlinks of every kind", "FROM base AS image\nRUN ln -s / root && ln -s . self && ln -s loop loop && ln -s $(printf '%04000d' 0 | tr 0 x | cut -c1-250)/$(printf '%0250d' 0) far"},
	{"sparse files", "FROM base AS image\nRUN fsop sparse small 100000 && fsop sparse large 20000000\nRUN echo y >> large && truncate -s 5000 small"},
	{"long paths", "FROM base AS image\nRUN fsop long /w 12"},
	{"long paths, changed", "FROM base AS deep\nRUN fsop long /w 15\nFROM deep AS image\nRUN fsop long /w 17 && chmod 700 a*"},
	{"odd names", `FROM base AS image
RUN fsop name /w '\n' && fsop name /w 'a\tb' && fsop name /w '\xff\x00'; fsop name /w '\xff\xfe' && fsop name /w '=' && fsop name /w ',comma' && fsop name /w ':colon'
RUN rm /w/,comma && echo x > /w/:colon`},
	{"many files", "FROM base AS image\nRUN mkdir many && for i in $(seq 500); do echo $i > many/$i; done\nRUN rm many/*7 && for i in $(seq 0 9); do echo x > many/1$i; done"},
	{"names like whiteouts", seed + "FROM seed AS image\nRUN echo x > d/.wharf && mkdir d/.w && rm d/one"},

	// Merges and differences.
	{"link onto a link", seed + "FROM base AS image\nCOPY --link --from=seed /w/d /w/d\nCOPY --link --from=seed /w/full /w/d"},
	{"link into a symlinked directory", "FROM base AS other\nRUN mkdir real && ln -s real alias && echo x > real/x\nFROM other AS image\nCOPY --link files/a /w/alias/a"},
	{"link over a file", seed + "FROM seed AS image\nCOPY --link files/a /w/file\nCOPY --link files/tree /w/d"},
	{"link of what was deleted and replaced", seed + "FROM seed AS changed\nRUN rm -r d full/1 && mkdir d && echo new > d/new\nFROM base AS image\nCOPY --link --from=changed /w /w/copy\nCOPY --link --from=seed /w /w/copy"},
	{"link, then change", seed + "FROM base AS image\nCOPY --link --from=seed /w /w/copy\nRUN rm -r copy/d && mkdir copy/d && mv copy/file copy/renamed && echo more >> copy/hard"},
	{"change, then link, then delete", seed + "FROM seed AS image\nRUN rm -r full\nCOPY --link --from=seed /w/full /w/full\nRUN rm full/2"},
	{"link hard links", "FROM base AS links\nRUN mkdir l && echo x > l/a && ln l/a l/b && echo y > l/c && ln l/c l/d\nFROM base AS image\nCOPY --link --from=links /w/l /w/l\nCOPY --link --from=links /w/l /w/again\nRUN echo z >> l/b"},
	{"many links", "FROM base AS image\n" +
		"COPY --link files/a /w/1/a\nCOPY --link files/a /w/2/a\nCOPY --link files/tree /w/3\nCOPY --link files/odd /w/4\nCOPY --link files/links /w/5\nCOPY --link files/b /w/1/b\nCOPY --link --chown=9:9 files/b /w/1/b"},
	{"stages of stages", seed + "FROM seed AS one\nRUN mv d one\nFROM seed AS two\nRUN rm -r d && echo two > two\nFROM base AS both\nCOPY --link --from=one /w /w\nCOPY --link --from=two /w /w\nFROM both AS image\nCOPY --link --from=both /w/one /w/one/two\nRUN rm -r one/e"},
	{"deep", "FROM base AS image\nRUN mkdir l && echo 1 > l/1\nRUN echo 2 > l/2\nRUN rm l/1\nRUN rm -r l && mkdir l\nRUN echo 3 > l/3\nRUN mv l m\nRUN mkdir l && echo 4 > l/3\nRUN rm -r m\nRUN mv l m\nRUN chmod 700 m\nCOPY --link files/a /w/m/\nRUN rm m/3"},
	{"volumes of bind mounts", "FROM base AS image\nRUN --mount=type=bind,source=files,target=/mnt/files cp -a /mnt/files/tree tree && cp -a /mnt/files/links links\nRUN --mount=type=cache,target=/w/cache --mount=type=tmpfs,target=/mnt/t echo x > cache/x"},
}
