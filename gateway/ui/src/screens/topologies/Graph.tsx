import dagre from '@dagrejs/dagre';
import { Handle, MarkerType, Position, ReactFlow, ReactFlowProvider, useReactFlow, type Edge, type Node, type NodeProps } from '@xyflow/react';
import '@xyflow/react/dist/base.css';
import { useMemo } from 'react';
import { Icon, type IconName } from '../../parts/Icon';
import { during, figure, plain, short } from '../../parts/say';
import { depthOf, perMinute, type Live, type LiveEdge, type LiveNode } from './data';
import './topologies.css';

const size = { width: 196, height: 104 };

type Box = Node<{ node: LiveNode; chosen: boolean; draft: boolean }, 'box'>;
type Line = Pick<LiveEdge, 'from' | 'to'>;
type Props = { live: Live; chosen: string | undefined; onChoose: (node: string) => void };

// Graph draws a version with what goes on in it. Where the boxes stand depends on the graph alone, so that nothing moves
// while figures do.
export default function Graph(props: Props) {
  return (
    <ReactFlowProvider>
      <Drawn {...props} />
    </ReactFlowProvider>
  );
}

function Drawn({ live, chosen, onChoose }: Props) {
  const flow = useReactFlow();
  const shape = JSON.stringify([(live.nodes ?? []).map((n) => n.name), (live.edges ?? []).map((e) => ({ from: e.from, to: e.to }))]);
  const places = useMemo(() => {
    const [names, lines] = JSON.parse(shape) as [string[], Line[]];
    return laidOut(names, lines);
  }, [shape]);
  const nodes: Box[] = (live.nodes ?? []).map((node) => ({
    id: node.name,
    type: 'box',
    position: places.at.get(node.name) ?? { x: 0, y: 0 },
    ...size,
    data: { node, chosen: node.name === chosen, draft: live.version === 0 },
  }));
  const busiest = Math.max(0.001, ...(live.edges ?? []).map((e) => e.rate_per_second));
  const edges = (live.edges ?? []).map((e) => drawn(e, busiest));
  return (
    <div className="graph" style={{ height: Math.min(620, Math.max(200, places.height + 56)) }}>
      <ReactFlow
        key={shape}
        nodes={nodes}
        edges={edges}
        nodeTypes={kinds}
        fitView
        fitViewOptions={{ padding: '24px', maxZoom: 1 }}
        minZoom={0.15}
        maxZoom={1.5}
        nodesDraggable={false}
        nodesConnectable={false}
        nodesFocusable={false}
        edgesFocusable={false}
        elementsSelectable={false}
        zoomOnScroll={false}
        zoomOnDoubleClick={false}
        preventScrolling={false}
        onNodeClick={(_, node) => onChoose(node.id)}
        proOptions={{ hideAttribution: true }}
      />
      <div className="zoom" role="group" aria-label="Zoom">
        <button className="btn sm icon" aria-label="Closer" onClick={() => void flow.zoomIn()}>
          +
        </button>
        <button className="btn sm icon" aria-label="Farther" onClick={() => void flow.zoomOut()}>
          −
        </button>
        <button className="btn sm" onClick={() => void flow.fitView({ padding: '24px', maxZoom: 1 })}>
          Fit
        </button>
      </div>
    </div>
  );
}

function laidOut(names: readonly string[], lines: readonly Line[]) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: 'LR', nodesep: 28, ranksep: 76, marginx: 0, marginy: 0 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const name of names) graph.setNode(name, { ...size });
  for (const { from, to } of lines) graph.setEdge(from, to);
  dagre.layout(graph);
  const at = new Map(
    names.map((name) => {
      const place = graph.node(name) as { x: number; y: number };
      return [name, { x: place.x - size.width / 2, y: place.y - size.height / 2 }];
    }),
  );
  return { at, height: (graph.graph() as { height?: number }).height ?? 0 };
}

// An edge is as wide as much goes over it, amber where something is held, and says what waits on it.
function drawn(e: LiveEdge, busiest: number): Edge {
  const depth = depthOf(e);
  const stroke = e.held ? 'var(--amber-fill)' : e.rate_per_second > 0 ? 'var(--teal-fill)' : 'var(--line-3)';
  return {
    id: `${e.from} ${e.to}`,
    source: e.from,
    target: e.to,
    style: { stroke, strokeWidth: 1.5 + 3 * Math.sqrt(e.rate_per_second / busiest) * Number(e.rate_per_second > 0) },
    markerEnd: { type: MarkerType.ArrowClosed, color: stroke, width: 14, height: 14, markerUnits: 'userSpaceOnUse' },
    ...(depth ? { label: `${short(depth)}${e.age_seconds !== undefined && e.age_seconds >= 1 ? ` · ${during(e.age_seconds)}` : ''}` } : {}),
    labelBgPadding: [5, 2],
    labelBgBorderRadius: 4,
    ariaLabel: `From ${e.from} to ${e.to}: ${said(e)}`,
  };
}

function said(e: LiveEdge): string {
  return [
    `${figure(perMinute(e.rate_per_second))} a minute`,
    e.waiting && `${e.waiting} waiting`,
    e.running && `${e.running} running`,
    e.held && `${e.held} held`,
    e.retrying && `${e.retrying} retrying`,
    e.trashed && `${e.trashed} in the trash`,
  ]
    .filter(Boolean)
    .join(', ');
}

const icons: Record<string, IconName> = { start: 'bolt', custom: 'settings', connector: 'apps', batch: 'process', breakpoint: 'pause' };
export const iconOf = (kind: string): IconName => icons[kind] ?? 'process';

function BoxNode({ data: { node: n, chosen, draft } }: NodeProps<Box>) {
  const parked = n.kind === 'breakpoint';
  const state = n.trashed && !parked ? 'bad' : n.held ? 'wait' : '';
  return (
    <>
      <Handle type="target" position={Position.Left} isConnectable={false} />
      <button className={`gn ${state}`} aria-pressed={chosen} title={n.name}>
        <span className="row">
          <Icon name={iconOf(n.kind)} small />
          <b className="ell">{plain(n.name)}</b>
        </span>
        <span className="ell faint">{plain([n.kind === 'breakpoint' ? 'a person decides' : n.kind, n.application ?? n.worker].filter(Boolean).join(', '))}</span>
        <span className="ell">
          {n.kind === 'start' ? (
            <span className="faint">events come in</span>
          ) : draft ? null : (
            <>
              {figure(perMinute(n.rate_per_second))} /min{n.p95_ms !== undefined && <> · p95 {during(n.p95_ms / 1000)}</>}
            </>
          )}
        </span>
        <span className="row marks">
          {n.trashed > 0 && <span className={`badge ${parked ? 'violet' : 'red'}`}>{short(n.trashed)} {parked ? 'parked' : 'in trash'}</span>}
          {n.held > 0 && <span className="badge amber">{short(n.held)} held</span>}
          {n.trashed === 0 && n.held === 0 && depthOf(n) > 0 && <span className="faint">{short(depthOf(n))} here</span>}
        </span>
      </button>
      <Handle type="source" position={Position.Right} isConnectable={false} />
    </>
  );
}

const kinds = { box: BoxNode };
