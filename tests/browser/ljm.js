// A minimal user of lib-jitsi-meet: joins with camera and microphone, shows what it receives, keeps chat and events.

window.log = [];
window.chat = [];
window.joined = false;

window.enter = async (server, room) => {
  const { JitsiMeetJS } = window;
  JitsiMeetJS.init({ disableAudioLevels: true });
  JitsiMeetJS.setLogLevel(JitsiMeetJS.logLevels.WARN);
  const config = await fetch(`${server}/config.js`).then((answer) => answer.text()).then((text) => new Function(`${text}; return config;`)());
  const options = { ...config, serviceUrl: `${config.websocket}?room=${room}` };
  const connection = new JitsiMeetJS.JitsiConnection(null, undefined, options);
  const { connection: on } = JitsiMeetJS.events;
  await new Promise((resolve, reject) => {
    connection.addEventListener(on.CONNECTION_ESTABLISHED, resolve);
    connection.addEventListener(on.CONNECTION_FAILED, (...why) => reject(new Error(why.join(" "))));
    connection.connect({ name: room });
  });
  window.connection = connection;
  const conference = connection.initJitsiConference(room, options);
  window.conference = conference;
  const { conference: events } = JitsiMeetJS.events;
  conference.on(events.CONFERENCE_JOINED, () => (window.joined = true));
  conference.on(events.CONFERENCE_FAILED, (...why) => window.log.push(`failed ${why.join(" ")}`));
  conference.on(events.MESSAGE_RECEIVED, (id, text) => window.chat.push(text));
  conference.on(events.USER_LEFT, (id) => window.log.push(`left ${id}`));
  conference.on(events.TRACK_ADDED, (track) => {
    if (track.isLocal()) return;
    const element = document.createElement(track.getType());
    element.autoplay = true;
    element.dataset.owner = track.getParticipantId();
    document.body.append(element);
    track.attach(element);
  });
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  const tracks = JitsiMeetJS.createLocalTracksFromMediaStreams
    ? JitsiMeetJS.createLocalTracksFromMediaStreams(["audio", "video"].map((mediaType) => ({
        stream: new MediaStream(stream.getTracks().filter((track) => track.kind === mediaType)),
        track: stream.getTracks().find((track) => track.kind === mediaType),
        sourceType: "device",
        mediaType,
        videoType: mediaType === "video" ? "camera" : undefined,
      })))
    : await JitsiMeetJS.createLocalTracks({ devices: ["audio", "video"], resolution: 360 });
  for (const track of tracks) await conference.addTrack(track);
  conference.setDisplayName("stock");
  conference.join();
  // The application's part: how large it shows people.
  conference.setReceiverConstraints?.({ lastN: -1, defaultConstraints: { maxHeight: 360 } });
};
